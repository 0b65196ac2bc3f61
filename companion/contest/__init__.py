"""What warns of invented text: kinds of transcripts, scores, and the contest between them."""
