"""Write the pages of the documentation: `python pages.py site|gallery|figures`.

site       Write the sources of the site to `site/pages/`; `make docs` builds the site from them.
gallery    Make the images of docs/gallery.yaml anew from the runs on disk, and write
           docs/gallery.md (`make gallery`).
figures    Draw the figures of docs/concepts/ anew; those of trained models need their runs on disk.
"""

import sys

from common.errors import UserError, run
from common.files import ROOT


def program(argv: list[str]) -> None:
    """Run one subcommand."""
    from cli.pages.gallery import rebuild
    from cli.pages.site import write_site

    if argv == ["site"]:
        print(f"{write_site(ROOT / 'site/pages')} pages: site/pages")
    elif argv == ["gallery"]:
        made = rebuild()
        print(f"docs/gallery.md; images made anew: {', '.join(made) or 'none'}")
    elif argv == ["figures"]:
        from cli.pages.figures import draw_all  # imports torch

        print(f"docs: {', '.join(draw_all())}")
    else:
        raise UserError(f"give one of: site, gallery, figures (got {' '.join(argv) or 'nothing'})")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run(lambda: program(argv))


if __name__ == "__main__":
    sys.exit(main())
