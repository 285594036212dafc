"""Options that several commands have."""

from typing import Annotated

from typer import Argument, Option

Json = Annotated[bool, Option("--json", help="print the result as JSON")]
Quiet = Annotated[bool, Option("--quiet", help="print only the result, and warnings")]
Private = Annotated[bool, Option("--private", help="create it as a private one")]
Revision = Annotated[
    str | None, Option("--revision", metavar="BRANCH", help="branch, created if it is not there")
]
CreatePr = Annotated[bool, Option("--create-pr", help="open a pull request instead")]
DryRun = Annotated[bool, Option("--dry-run", help="only show what would be sent")]
Force = Annotated[bool, Option("--force", help="replace what was made or edited by hand")]
SpaceId = Annotated[
    str, Argument(metavar="USER/SPACE", help="where to; created if it is not there")
]
SpaceFolder = Annotated[
    str | None,
    Option("--output", metavar="FOLDER", help="write a new folder, to try it here; send nothing"),
]
ModelFolder = Annotated[str, Argument(metavar="MODEL_FOLDER", help="a finished model folder")]

PUSH_STATUSES = (
    "Exit status: 0 done; 1 folder or card unusable; 2 no valid name or branch; 3 no token, or not "
    "a valid one; 4 token may not write there; 5 name taken; 6 card edited by hand on the Hub; 7 "
    "Hub not reached; 8 terms not accepted; 9 refused by the Hub."
)
