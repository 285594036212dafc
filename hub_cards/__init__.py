"""Hub model cards from evidence: every number on a card is read from a file of the model folder.

`python -m hub_cards render MODEL_FOLDER` writes the folder's README.md, `python -m hub_cards push`
brings the folder to the Hub in one commit. The package reads finished folders only and imports none
of the code that trains or runs the models.
"""
