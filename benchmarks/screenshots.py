"""Take screenshots of a page, one for each width; those of the README are made here.

python -m benchmarks.screenshots --report report/report.html --width 390 1400 --output_dir docs
"""

import argparse
from pathlib import Path

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.utils.errors import ClipScratchError


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="screenshots.py")
    parser.add_argument("--report", type=Path, required=True, help="report.html, or another HTML file")
    parser.add_argument("--width", type=int, nargs="+", default=[390, 1400], help="CSS pixels (default: %(default)s)")
    parser.add_argument("--height", type=int, help="CSS pixels that are shown at most")
    parser.add_argument("--top", type=int, default=0, help="CSS pixels that are left out at the top")
    parser.add_argument("--name", help="file name without ending; with several widths the width follows")
    parser.add_argument("--browser", help="path of an installed Chromium")
    parser.add_argument("--output_dir", type=Path, default=Path("."))
    options = parser.parse_args(arguments)
    if not options.report.is_file():
        raise ClipScratchError(f"report={options.report} is not a file; clipscratch eval writes report.html.")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise ClipScratchError(
            "screenshots need playwright: pip install playwright, then playwright install chromium."
        ) from error
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=options.browser, args=["--no-sandbox"])
        except Error as error:
            raise ClipScratchError(
                "no Chromium can be started: playwright install chromium, or name it by --browser."
            ) from error
        options.output_dir.mkdir(parents=True, exist_ok=True)
        for width in options.width:
            page = browser.new_page(viewport={"width": width, "height": 900})
            requests = []
            page.on("request", lambda request, seen=requests: seen.append(request.url))
            page.goto(options.report.resolve().as_uri())
            inside = page.evaluate("document.documentElement.scrollWidth")
            fetched = [url for url in requests if not url.startswith(("file:", "data:"))]
            whole = page.evaluate("document.documentElement.scrollHeight") - options.top
            box = {"x": 0, "y": options.top, "width": width, "height": min(whole, options.height or whole)}
            name = options.name or options.report.parent.name
            path = options.output_dir / (name + (f"_{width}" if len(options.width) > 1 else "") + ".png")
            page.screenshot(path=path, full_page=True, clip=box)
            print(f"{path}: the page is {inside} wide in a window of {width}, and fetched {fetched or 'nothing'}")
        browser.close()


if __name__ == "__main__":
    run_command(main)
