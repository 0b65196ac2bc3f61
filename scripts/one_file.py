"""Write a page of the built documents as one file that needs no other.

``python scripts/one_file.py build/site docs/report.html``; the file goes into the folder, beside
what it links to. Styles and scripts are put in their place, pictures become data addresses.
"""

import mimetypes
import os
import re
import sys
from base64 import b64encode
from pathlib import Path

from companion.results.tables import write_text


def single_file(site: Path, page: str) -> Path:
    """Write the page into ``site``, and say where; FileNotFoundError for a file that it lacks."""
    source = site / page
    text = source.read_text(encoding="utf-8")

    def beside(address: str) -> Path:
        return source.parent / address.partition("?")[0]

    def style(tag: re.Match[str]) -> str:
        return f"<style>{beside(tag[1]).read_text(encoding='utf-8')}</style>"

    def script(tag: re.Match[str]) -> str:
        code = beside(tag[1]).read_text(encoding="utf-8").replace("</script", r"<\/script")
        return f"<script>{code}</script>"

    def picture(tag: re.Match[str]) -> str:
        path = beside(tag[2])
        kind, _ = mimetypes.guess_type(path)
        return f"{tag[1]}data:{kind};base64,{b64encode(path.read_bytes()).decode()}{tag[3]}"

    def link(tag: re.Match[str]) -> str:
        inside = os.path.normpath(Path(page).parent / tag[2])
        return f'{tag[1]}="{inside}{tag[3]}"'

    text = re.sub(r'<link rel="(?:index|search|prev|next|icon)"[^>]*>', "", text)
    text = re.sub(r'<link rel="stylesheet"[^>]*href="([^"]+)"[^>]*>', style, text)
    text = re.sub(r'<script [^>]*src="([^"]+)"[^>]*></script>', "\0\\1\0", text)
    text = re.sub(r'(<img [^>]*src=")([^":]+)(")', picture, text)
    text = re.sub(r'(href|action)="(?![a-z]+:|#)([^"#?]+)([^"]*)"', link, text)
    scripts = "".join(script(place) for place in re.finditer("\0(.*?)\0", text))
    text = re.sub("\0.*?\0", "", text).replace("</body>", f"{scripts}</body>")
    whole = site / Path(page).name
    write_text(whole, text)
    return whole


if __name__ == "__main__":
    print(single_file(Path(sys.argv[1]), sys.argv[2]))
