"""What goes on inside the decoder of a Whisper in memory, of either library, while it decodes."""
