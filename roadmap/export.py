"""A run's network for other tools: `python -m roadmap.export RUN [--output FOLDER] [--onnx]`.

The folder holds `model.safetensors` and timm's `config.json`, so `timm.create_model("local-dir:FOLDER")` builds it. timm has no
detectors and no segmenters: of those it is the backbone, for `features_only=True`.
"""

from __future__ import annotations

from pathlib import Path

from roadmap.base.console import Parser, exits
from roadmap.base.errors import writing
from roadmap.base.processes import check_alone
from roadmap.use.named import check_export, check_named


def main() -> int:
    """Write the folder, and say how timm takes it."""
    parser = Parser(prog="python -m roadmap.export", description=__doc__)
    parser.add_argument("network", metavar="RUN", help="a finished run's folder")
    parser.add_argument("--output", type=Path, help="an empty folder, or one that an export wrote (default: exported/<RUN>)")
    parser.add_argument("--onnx", action="store_true", help="an ONNX program too, checked against onnxruntime")
    parser.add_folders("parts")
    arguments = parser.parse_args()
    check_alone("roadmap.export")
    known = check_named(arguments.network, arguments.config_dir, arguments.parts)
    folder = arguments.output or Path("exported") / known.name
    check_export(folder, arguments.network, known, arguments.onnx)
    from roadmap.use.export import exported, write, write_onnx  # torch
    from roadmap.use.trained import find_trained

    trained = find_trained(arguments.network, arguments.config_dir, arguments.parts, fetch=False)
    export = exported(trained)
    with writing(f"{folder}:"):
        folder.mkdir(parents=True, exist_ok=True)
    if arguments.onnx:
        file, off = write_onnx(trained, export, folder)
        print(f"{file}: any number of images; outputs as the network's to {off:.0e} of the largest")
    print("\n".join(map(str, write(trained, export, folder))))
    before = "" if export.of_timm_alone else "import roadmap.timm; "
    features = "" if export.classes else ", features_only=True"
    print(f"{before}timm.create_model('local-dir:{folder}', pretrained=True{features})")
    if not export.classes:
        print(f"that is the backbone; the whole network: import roadmap.timm; roadmap.timm.load_trained('{arguments.network}')")
    return 0


if __name__ == "__main__":
    exits(main)()
