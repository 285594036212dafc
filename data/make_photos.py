"""Write the embedded photographs and their credits, from the Debian package gcompris-qt-data.

GCompris, a suite of activities for children, ships photographs and states author, source and
licence of each one in README files next to them. Taken are photographs whose author is named and
whose licence is "public domain" or CC0-1.0, in a variety of subjects and shapes. They are WebP in
the package; here they are JPEG, as in ImageNet, made smaller to keep the repository small. The
bytes depend on the version of Pillow, which README.md names.

    python data/make_photos.py --source FOLDER_WITH_RCC --output data/photos
"""

import argparse
import hashlib
import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageCms

MAX_SIDE = 384  # pixels; enough for the usual 256 on the short side of a 3:2 photograph
JPEG_QUALITY = 85
LICENCES = {"public domain": "public domain", "cc0-1.0": "CC0-1.0"}
# Resource file (without .rcc) and SHA-256, of gcompris-qt-data 3.1-2.
RCC_SHA256 = {
    "categorization": "984852ac8377a224c94e26a5bc8a13d0a589612030902c6d76c14509fef3c984",
    "clickgame": "2fa61579a69a0c018b05db5865c148fd248d6d80ff80e16cc77039b0d0bede91",
    "erase": "0c92974491a4a4e90bebe79156720122adaf084b2e2fcc4513ce6907c3e14d6b",
    "explore_farm_animals": "1d17b5eb6c72b3a26aa37d6767fbeaf5a943064602c82b2d9c21ba006f748ba8",
    "explore_monuments": "337878371e443f7401d4fe4798c88dde44569953bf5fa8f2738d45be4ec59ab1",
    "explore_world_animals": "85599f387a1f0da48d8e9e4502e6ef1ba9e826391bc4d6feb3b1f614d2d0ebdd",
    "explore_world_music": "e95b9b7aaa52d4b029c7161b4ff945ff6e1743f96cee47beb413b07e763f9207",
}
# README folder in the resources -> photograph (without .webp) -> subject, which names the file.
PHOTOS = {
    "categorization/resource/images/fishes": {
        "fish1": "gray angelfish",
        "fish4": "yellow perch",
        "fish6": "discus fish",
        "fish8": "Atlantic salmon",
        "fish9": "clownfish",
        "fish13": "ocellated wrasse",
        "fish18": "boarfish",
        "fish24": "rainbow wrasse",
        "fish25": "goldfish",
        "fish28": "spotted puffer",
    },
    "categorization/resource/images/monuments": {
        "arcDeTriomphe": "Arc de Triomphe du Carrousel",
        "cathedral": "Santiago de Compostela Cathedral",
        "eiffelTower": "Eiffel Tower",
        "empireState": "Empire State Building",
        "leaningTowerOfPisa": "Leaning Tower of Pisa",
        "monument1": "Dome of the Rock",
        "monument2": "Aphrodisias tetrapylon",
        "parthenon": "Parthenon",
        "statueOfLiberty": "Statue of Liberty",
        "tajMahal": "Taj Mahal",
        "usCapitol": "United States Capitol",
        "victoriaMemorial": "Victoria Memorial in London",
        "zimniPalace": "Winter Palace",
    },
    "categorization/resource/images/others": {
        "baseball": "baseball",
        "bucket": "wooden pail",
        "bulb": "light bulb",
        "chair": "chair",
        "cup": "porcelain cup",
        "igloo": "igloo",
        "knife": "cutlery",
        "pan": "frying pan",
        "pencil": "pencil",
        "plate": "plate",
        "spoons": "spoons",
        "weighingMachine": "laboratory balance",
    },
    "categorization/resource/images/renewable": {
        "dam1": "Amagase Dam",
        "dam5": "Caruachi Dam",
        "geothermal": "geothermal field",
        "solar1": "solar cooker",
        "solar5": "solar panels",
        "solar6": "solar roof",
        "windmill": "Chesterton Windmill",
        "windmill1": "Rhodes windmill",
        "windmill3": "Mykonos windmills",
        "windmill8": "Portuguese windmill",
        "windmill12": "Khokhlovka windmill",
        "windmill13": "Kinderdijk windmill",
    },
    "categorization/resource/images/tools": {
        "hammer3": "sledgehammer",
        "hammer5": "claw hammer",
        "hammer7": "armorer's hammer",
        "measuringTape1": "tape measure",
        "measuringTape2": "surveyor's tape",
        "multimeter1": "red multimeter",
        "multimeter3": "green multimeter",
        "nailCutter": "nail clipper",
        "plier2": "long-nose pliers",
        "plier3": "combination pliers",
        "scissors1": "scissors",
        "screwDriver1": "yellow screwdriver",
        "screwDriver2": "Phillips screwdriver",
        "sickle": "sickle",
        "spray": "spray bottle",
        "tweezer": "tweezers",
        "wrench": "adjustable wrench",
    },
    "clickgame/resource": {
        "sea4": "black coral",
        "sea6": "basket star",
    },
    "erase/resource": {
        "crab": "crab",
        "giraffe": "giraffe",
        "kingfisher": "kingfisher",
        "pika": "pika",
        "red_panda": "red panda",
    },
    "explore_farm_animals/resource/animals": {
        "cat": "kitten",
        "chicken": "hens",
        "cow": "cow",
        "duck": "duck",
        "horse": "horses",
        "owl": "owl",
        "pig": "piglet",
        "sheep": "sheep",
    },
    "explore_monuments/resource": {
        "egypt/bentPyramid": "Bent Pyramid",
        "egypt/greatPyramidOfGiza": "Great Pyramid of Giza",
        "france/chateaudeChambord": "Chateau de Chambord",
        "france/citedeCarcassonne": "Carcassonne",
        "france/montStMichel": "Mont Saint-Michel",
        "france/pontduGard": "Pont du Gard",
        "germany/brandenburgGate": "Brandenburg Gate",
        "germany/neuschwansteinCastle": "Neuschwanstein Castle",
        "germany/schwerinPalace": "Schwerin Palace",
        "india/charminar": "Charminar",
        "india/goldenTemple": "Golden Temple",
        "india/hawaMahal": "Hawa Mahal",
        "india/qutubMinar": "Qutub Minar",
        "india/victoriaMemorial": "Victoria Memorial in Kolkata",
        "usa/lincolnMemorial": "Lincoln Memorial",
        "usa/mountRushmore": "Mount Rushmore",
        "wonders/colosseum": "Colosseum",
        "wonders/greatWallofChina": "Great Wall of China",
        "wonders/machuPicchu": "Machu Picchu",
        "wonders/petra": "Petra",
    },
    "explore_world_animals/resource/animals": {
        "bison": "bison",
        "chameleon": "garden lizard",
        "crocodile": "crocodile",
        "dragon": "Komodo dragon",
        "hedgehog": "hedgehog",
        "jaguar": "jaguars",
        "kangaroo": "kangaroo",
        "koala": "koala",
        "lemur": "ring-tailed lemurs",
        "moose": "moose",
        "panda": "giant panda",
        "scarlet_macaw": "scarlet macaw",
    },
    "explore_world_music/resource/music": {
        "middleeast": "dutar",
    },
}


def read_rcc(content: bytes) -> dict[str, bytes]:
    """Read a Qt resource file of format version 3, contents plain or compressed with zlib.

    Args:
        content: the whole file.

    Returns:
        Path inside the resources, such as "gcompris/src/...", to content.

    Raises:
        ValueError: if it is not such a file.

    Source: qtbase, src/tools/rcc/rcc.cpp.
    """
    if content[:8] != b"qres\0\0\0\3":
        raise ValueError(f"a Qt resource file must begin with 'qres' and 3; got {content[:8]!r}")
    tree, data, names = struct.unpack_from(">3I", content, 8)

    def walk(index: int, parent: str) -> Iterator[tuple[str, bytes]]:
        node = tree + 22 * index
        name_offset, flags = struct.unpack_from(">IH", content, node)
        (name_length,) = struct.unpack_from(">H", content, names + name_offset)
        name_start = names + name_offset + 6  # length and hash come before the name
        name = content[name_start : name_start + 2 * name_length].decode("utf-16-be")
        path = f"{parent}/{name}".lstrip("/") if index else ""  # the root is nameless
        if flags & 2:  # a folder
            num_children, first = struct.unpack_from(">II", content, node + 6)
            for child in range(first, first + num_children):
                yield from walk(child, path)
        else:
            (offset,) = struct.unpack_from(">I", content, node + 10)
            (size,) = struct.unpack_from(">I", content, data + offset)
            start = data + offset + 4
            blob = content[start : start + size]
            yield path, zlib.decompress(blob[4:]) if flags & 1 else blob  # 4: unpacked size

    return dict(walk(0, ""))


def read_credits(text: str) -> dict[str, tuple[str, str, str]]:
    """Read whom to credit from a README of GCompris.

    Args:
        text: stanzas of Copyright, Source, License and Files, in any order.

    Returns:
        File to author, source and licence, without the files under a licence that is not in
        `LICENCES` and those without a named author or source.
    """
    usable = {}
    for stanza in re.split(r"\n\s*\n", text):
        fields = {}
        key = ""
        for line in stanza.splitlines():
            name, colon, value = line.partition(":")
            if colon and name.istitle():
                key = name
            else:
                value = line  # goes on with the field above
            fields[key] = f"{fields.get(key, '')} {value}".strip()
        author, source = fields.get("Copyright"), fields.get("Source")
        licence = LICENCES.get(fields.get("License", "").lower())
        if author and author.lower() != "anonymous" and source and licence:
            usable |= dict.fromkeys(fields.get("Files", "").split(), (author, source, licence))
    return usable


def encode_jpeg(content: bytes) -> bytes:
    """Turn a photograph of any format into a JPEG of at most `MAX_SIDE` pixels a side."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    if profile := image.info.get("icc_profile"):  # some are Adobe RGB
        srgb = ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode="RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def read_resources(folder: Path) -> dict[str, bytes]:
    """Read the resource files of `RCC_SHA256`.

    Args:
        folder: where they are.

    Returns:
        As `read_rcc`, of all of them together.

    Raises:
        FileNotFoundError: if one is missing.
        ValueError: if one is not the file that `PHOTOS` was chosen from.
    """
    resources = {}
    for name, sha256 in RCC_SHA256.items():
        path = folder / f"{name}.rcc"
        if not path.is_file():
            raise FileNotFoundError(f"resource file {path} must exist; give its folder as --source")
        content = path.read_bytes()
        if (actual := hashlib.sha256(content).hexdigest()) != sha256:
            raise ValueError(
                f"{path} must have SHA-256 {sha256}; got {actual}. "
                "Take it from gcompris-qt-data 3.1-2."
            )
        resources |= read_rcc(content)
    return resources


def main(argv: list[str] | None = None) -> None:
    """Read the resource files, then write the photographs and CREDITS.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of the .rcc files")
    parser.add_argument("--output", type=Path, required=True, help="data/photos")
    arguments = parser.parse_args(argv)
    resources = read_resources(arguments.source)
    rows = []
    photos = {}
    for folder, subjects in PHOTOS.items():
        root = f"gcompris/src/activities/{folder}"
        usable = read_credits(resources[f"{root}/README"].decode("utf-8"))
        for stem, subject in subjects.items():
            name = f"{stem}.webp"
            if name not in usable:
                raise ValueError(
                    f"{folder}/{name} in PHOTOS must have an author, a source and a licence of "
                    f"{sorted(LICENCES.values())} in the README of GCompris; leave it out."
                )
            author, source, licence = usable[name]
            file_name = re.sub(r"[^a-z0-9]+", "_", subject.replace("'", "").lower()) + ".jpg"
            photos[file_name] = encode_jpeg(resources[f"{root}/{name}"])
            rows.append((file_name, subject, author, f"<{source}>", licence))

    arguments.output.mkdir(parents=True, exist_ok=True)
    for file_name, content in photos.items():
        (arguments.output / file_name).write_bytes(content)
    header = ("file", "subject", "author", "source", "licence")
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *sorted(rows))]
    credits = "\n".join(["# Credits", "", *lines, ""])
    (arguments.output / "CREDITS.md").write_text(credits, encoding="utf-8")
    print(f"{len(photos)} photographs, {sum(map(len, photos.values()))} bytes")


if __name__ == "__main__":
    main()
