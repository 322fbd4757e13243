"""Pictures with COCO's JSON or with maps: what they hold, and that what cannot be trained on is refused with its place."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image
from pycocotools import mask as reference_masks
from pycocotools.coco import COCO

from roadmap.base.errors import Refused
from roadmap.config.compose import compose
from roadmap.config.identity import identity
from roadmap.config.schema import Target
from roadmap.data.images import sources
from roadmap.data.images.masks import Unfit, check_mask, decode_runs
from roadmap.data.images.scenes import fit_boxes

SIZE = 30, 40  # height and width of every picture
SQUARE = [[5, 5, 15, 5, 15, 20, 5, 20]]


def run_lengths(mask, compressed=True):
    if not compressed:
        flat = mask.T.ravel()
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
        return {"size": list(SIZE), "counts": [int(run) for run in np.diff(edges, prepend=0)]}
    coded = reference_masks.encode(np.asfortranarray(mask))
    return {"size": list(SIZE), "counts": coded["counts"].decode()}


def disc(row, column, radius):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return ((rows - row) ** 2 + (columns - column) ** 2 <= radius**2).astype(np.uint8)


def known(number, image, category, segmentation, **more):
    coded = segmentation
    if isinstance(segmentation, list):
        coded = reference_masks.merge(reference_masks.frPyObjects(segmentation, *SIZE))
    elif isinstance(segmentation["counts"], list):
        coded = reference_masks.frPyObjects(segmentation, *SIZE)
    box, area = [float(side) for side in reference_masks.toBbox(coded)], int(reference_masks.area(coded))
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": 0}
    return {**entry, "segmentation": segmentation, **more}


def annotations(first):
    images = [{"id": first + n, "file_name": f"{first + n}.png", "height": SIZE[0], "width": SIZE[1]} for n in range(3)]
    objects = [
        known(1, first, 7, SQUARE),
        known(2, first, 3, [[1.5, 20.25, 30.5, 25.5, 12.25, 29.5], [20, 2, 30, 2, 25.5, 8.25]]),
        known(3, first + 1, 3, run_lengths(disc(12, 20, 9))),
        known(4, first + 1, 7, run_lengths(disc(0, 39, 6), compressed=False), iscrowd=1),
    ]
    categories = [{"id": 7, "name": "square"}, {"id": 3, "name": "other"}]
    return {"images": images, "annotations": objects, "categories": categories}  # the third picture is empty


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for split, first in (("train", 10), ("val", 20)):
        (tmp_path / split).mkdir()
        for number in range(3):
            pixels = random.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / f"{first + number}.png")
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(annotations(first)))
    return tmp_path


def experiment(path, *overrides, source="coco"):
    task = "detection" if source == "coco" else "segmentation"
    settings = [f"task={task}", "recipe.batch_size=2", f"data={source}", f"data.path={path}", *overrides]
    return compose(["+step=gelu", "scale=atto", *settings])


def examined(path, *overrides, source="coco", target=Target.objects):
    """What a run does before it trains."""
    data = experiment(path, *overrides, source=source).data
    found = sources.checked_images(data, 2, target)
    return data, found, sources.fingerprint(data, found)


def change(path, edit, split="train"):
    file = path / f"instances_{split}.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


# --- COCO's JSON -----------------------------------------------------------------------------------------------------


def test_objects_are_those_of_pycocotools(folder):
    data, found, _ = examined(folder)
    assert found.classes == ("other", "square")  # by their ids, 3 and 7
    read = sources.object_reader(data, found, "train")
    reference = COCO()
    reference.dataset = json.loads((folder / "instances_train.json").read_text())
    reference.createIndex()
    for index, number in enumerate((10, 11, 12)):
        image, objects = read(index)
        assert np.array_equal(image, Image.open(folder / "train" / f"{number}.png"))
        expected = reference.imgToAnns[number]
        assert objects.masks.shape == (len(expected), *SIZE)
        for place, one in enumerate(expected):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools' own
                assert np.array_equal(objects.masks[place], reference.annToMask(one))
            left, top, wide, tall = one["bbox"]
            assert objects.boxes[place].tolist() == [left, top, left + wide, top + tall]
            assert (objects.labels[place], objects.crowd[place], objects.areas[place]) == (
                {3: 0, 7: 1}[one["category_id"]],
                bool(one["iscrowd"]),
                one["area"],
            )


def test_cocos_own_layout_and_archives_are_the_same_data(folder, tmp_path_factory):
    own = tmp_path_factory.mktemp("own")
    (own / "annotations").mkdir()
    for split in ("train", "val"):
        shutil.copytree(folder / split, own / f"{split}2017")
        shutil.copy(folder / f"instances_{split}.json", own / "annotations" / f"instances_{split}2017.json")
    archive = own / "data.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for path in sorted(folder.rglob("*")):
            content.write(path, Path("nuclei") / path.relative_to(folder))
    of_folder, of_own, of_archive = examined(folder), examined(own), examined(archive)
    assert of_folder[2] == of_archive[2] and of_folder[1].classes == of_own[1].classes
    for data, found, _ in (of_own, of_archive):
        assert sources.object_reader(data, found, "val")(0)[1].areas.tolist() == [150, 138]


def test_fingerprint_follows_pictures_and_annotations(folder):
    before = examined(folder)[2]
    assert examined(folder)[2] == before
    change(folder, lambda content: content["annotations"][0].update(category_id=3), "val")
    after = examined(folder)[2]
    pixels = np.asarray(Image.open(folder / "train" / "12.png")).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(folder / "train" / "12.png")
    assert len({before, after, examined(folder)[2]}) == 3


def put(key, value, number=0, part="annotations"):
    return lambda content: content[part][number].update({key: value})


BROKEN = {
    "id_twice": (put("id", 2), r"annotations\[1\]: id_twice: id=2: is that of annotations\[0\] too"),
    "id_missing": (lambda content: content["annotations"][0].pop("id"), r"annotations\[0\]: id: id=None"),
    "image_twice": (put("id", 10, 1, "images"), r"images\[1\]: id_twice: id=10"),
    "category_twice": (put("id", 7, 1, "categories"), r"categories\[1\]: id_twice: id=7"),
    "category_named_twice": (put("name", "square", 1, "categories"), r"categories\[1\] \(id 3\): category: name='square'"),
    "file_named_twice": (put("file_name", "10.png", 1, "images"), r"images\[1\] \(id 11\): file_name"),
    "file_elsewhere": (put("file_name", "../val/20.png", 1, "images"), r"images\[1\] \(id 11\): file_name: .*in the folder"),
    "file_named_otherwise": (
        put("file_name", "./10.png", 1, "images"),
        r"images\[1\] \(id 11\): file_name: .* of another",
    ),
    "file_name_too_long": (
        put("file_name", "1" * 256 + ".png", 1, "images"),
        r"images\[1\] \(id 11\): file_name: .*in the folder",
    ),
    "unknown_image": (put("image_id", 99), r"annotations\[0\] \(id 1\): unknown_image: image_id=99"),
    "unknown_category": (put("category_id", 1), r"annotations\[0\] \(id 1\): unknown_category: category_id=1"),
    "box_outside": (put("bbox", [5, 5, 60, 15]), r"annotations\[0\] \(id 1\): outside: bbox=\[5, 5, 60, 15\]"),
    "box_before_zero": (put("bbox", [-4, 5, 10, 15]), "outside: bbox"),
    "box_empty": (put("bbox", [5, 5, 0, 15]), r"annotations\[0\] \(id 1\): degenerate: bbox=\[5, 5, 0, 15\]"),
    "box_negative": (put("bbox", [15, 20, -10, -15]), r"box: bbox=\[15, 20, -10, -15\]: must be four finite numbers"),
    "box_of_three": (put("bbox", [5, 5, 10]), "box: bbox"),
    "box_of_words": (put("bbox", ["5", "5", "10", "15"]), "box: bbox"),
    "box_nan": (put("bbox", [5, 5, float("nan"), 15]), "box: bbox"),
    "box_of_many_digits": (put("bbox", [10**400, 5, 10, 15]), "box: bbox"),
    "box_of_corners": (put("bbox", [18, 5, 20, 20]), r"disagree: bbox=\[18, 5, 20, 20\]: the mask is in \[5, 5, 10, 15\]"),
    "area_negative": (put("area", -3), "area: area=-3: must be a number of pixels"),
    "area_of_no_picture": (put("area", 1201), "area: area=1201: must be a number of pixels, at most those of the picture"),
    "area_of_many_digits": (put("area", 10**400), "area: area=1000"),
    "area_missing": (lambda content: content["annotations"][0].pop("area"), "area: area=None"),
    "crowd_of_two": (put("iscrowd", 2), "crowd: iscrowd=2: must be 0 or 1"),
    "no_mask": (put("segmentation", None), "mask: segmentation=None: must be polygons or run lengths"),
    "polygon_odd": (put("segmentation", [[5, 5, 15, 5, 15, 20, 5]]), r"polygon: segmentation\[0\]: 7 numbers"),
    "polygon_of_two_points": (put("segmentation", [[5, 5, 15, 20]]), r"polygon: segmentation\[0\]: 4 numbers"),
    "polygon_nan": (put("segmentation", [[5, 5, 15, 5, 15, float("inf")]]), r"polygon: segmentation\[0\]=.*finite"),
    "polygon_of_many_digits": (put("segmentation", [[10**400, 5, 15, 5, 15, 20]]), r"polygon: segmentation\[0\]=.*finite"),
    "polygon_outside": (put("segmentation", [[5, 5, 70, 5, 15, 20]]), "outside: segmentation: spans x 5 to 70"),
    "polygon_far_away": (put("segmentation", [[5, 5, 1e9, 5, 15, 20]]), "polygon: segmentation: spans x 5 to 1e.09.*far out"),
    "polygons_empty": (put("segmentation", []), r"degenerate: segmentation=\[\]: no polygon"),
    "rle_of_another_size": (put("segmentation", {"size": [40, 30], "counts": "0"}, 2), r"size: segmentation.size=\[40, 30\]"),
    "rle_too_short": (put("segmentation", {"size": [30, 40], "counts": [100, 20]}, 3), "rle: .*120 pixels.*30 x 40"),
    "rle_negative": (put("segmentation", {"size": [30, 40], "counts": [-5, 1205]}, 3), "rle: .*a negative run"),
    "rle_cut_off": (
        lambda content: content["annotations"][2]["segmentation"].update(
            counts=content["annotations"][2]["segmentation"]["counts"][:-7]
        ),
        r"annotations\[2\] \(id 3\): rle: ",
    ),
    "rle_garbage": (put("segmentation", {"size": [30, 40], "counts": "~~ ~"}, 2), "rle: .*not COCO's text"),
    "rle_empty_mask": (put("segmentation", {"size": [30, 40], "counts": [1200]}, 3), "degenerate: segmentation: a mask without"),
    "size_unlike_the_file": (put("width", 41, 2, "images"), r"12.png: size: height, width \[30, 40\]; the JSON says \[30, 41\]"),
    "size_of_many_digits": (put("width", 10**400, 0, "images"), r"images\[0\] \(id 10\): size: height, width=\[30, 1000"),
    "size_missing": (put("height", None, 2, "images"), r"images\[2\] \(id 12\): size: height, width=\[None, 40\]"),
    "no_objects": (lambda content: content["annotations"].clear(), "instances_train.json: annotations: no objects at all"),
    "crowds_alone": (
        lambda content: [entry.update(iscrowd=1) for entry in content["annotations"]],
        "instances_train.json: annotations: no objects but crowds",
    ),
    "no_annotations": (lambda content: content.pop("annotations"), "annotations is missing; must be a list"),
    "no_images": (lambda content: content["images"].clear(), "instances_train.json: images is empty"),
    "images_are_a_map": (lambda content: content.update(images={"10": "10.png"}), "images is a dict; must be a list"),
    "entry_is_a_number": (lambda content: content["annotations"].append(7), r"annotations\[4\]: entry: 7: must be an object"),
    "category_of_two_lines": (put("name", "a\nb", 0, "categories"), r"categories\[0\] \(id 7\): category: name='a.nb'"),
    "category_that_is_no_text": (put("name", "\ud800", 0, "categories"), r"categories\[0\] \(id 7\): category: name='.ud800'"),
    "categories_differ": (put("name", "oblong", 0, "categories"), "categories of train and val differ"),
    "picture_missing": (put("file_name", "13.png", 2, "images"), r"1 pictures of its JSON are not there: .*train/13.png"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_in_the_json_is_refused_with_its_place(folder, fault):
    edit, message = BROKEN[fault]
    change(folder, edit)
    with pytest.raises(Refused, match=message) as refusal:
        examined(folder)
    assert str(folder) in str(refusal.value)


def once_more(file, pair):
    """The file with this pair of key and value doubled where it first stands."""
    content = file.read_bytes()
    assert pair in content
    return content.replace(pair, pair + b", " + pair, 1)


def rewrite(path, content):
    path.write_bytes(content)


DAMAGED = {
    "cut_off": (lambda root: rewrite(root / "instances_val.json", (root / "instances_val.json").read_bytes()[:500]), "cut off"),
    "not_json": (lambda root: rewrite(root / "instances_val.json", b"\x89PNG\r\n"), "instances_val.json: not JSON"),
    "empty": (lambda root: rewrite(root / "instances_val.json", b""), "instances_val.json: not JSON"),
    "key_twice": (
        lambda root: rewrite(root / "instances_val.json", once_more(root / "instances_val.json", b'"category_id": 3')),
        "instances_val.json: the key 'category_id' is there twice in the object of id=2; must be once",
    ),
    "nested": (lambda root: rewrite(root / "instances_val.json", b"[" * 200_000), "instances_val.json: not JSON"),
    "a_list": (lambda root: rewrite(root / "instances_val.json", b"[]"), "instances_val.json: a list; must be COCO's object"),
    "no_json": (lambda root: (root / "instances_val.json").unlink(), "there is no file instances_val.json, nor annotations/"),
    "no_folder": (lambda root: (root / "val").rename(root / "test"), "there is no folder val, nor val2017"),
    "picture_damaged": (lambda root: rewrite(root / "val" / "21.png", b"\x89PNG\r\n\x1a\n123"), "21.png: damaged"),
    "picture_of_text": (lambda root: rewrite(root / "val" / "21.png", b"hello"), "21.png: not_image"),
    "picture_in_both": (lambda root: shutil.copy(root / "train" / "11.png", root / "val" / "21.png"), "21.png: duplicate"),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_folder_is_refused(folder, fault):
    damage, message = DAMAGED[fault]
    damage(folder)
    with pytest.raises(Refused, match=message):
        examined(folder)


def test_several_faults_are_named_at_once(folder):
    def edit(content):
        content["annotations"][0]["bbox"] = [5, 5, 0, 15]
        content["annotations"][1]["category_id"] = 1
        content["annotations"][2]["area"] = -1

    change(folder, edit)
    change(folder, put("bbox", [5, 5, 60, 15]), "val")
    with pytest.raises(Refused) as refusal:
        examined(folder)
    message = str(refusal.value)
    assert "annotations that cannot be used: 1 area, 1 degenerate, 1 outside, 1 unknown_category" in message
    assert "instances_val.json: annotations[0]" in message and "data.accept=[degenerate,outside]" in message


def test_what_is_accepted_is_warned_of_and_not_trained_on(folder, caplog):
    change(folder, put("bbox", [5, 5, 0, 15]))
    data, found, _ = examined(folder, "data.accept=[degenerate,disagree]")
    assert "data.accept=degenerate lets through 1 of the annotations" in caplog.text
    objects = sources.object_reader(data, found, "train")(0)[1]
    assert objects.boxes[0].tolist() == [5, 5, 5, 20] and len(objects.labels) == 2
    from roadmap.data.dense.transforms import View, show_objects

    assert show_objects(objects, View(0, 0, *SIZE, SIZE), 0).labels.tolist() == [0]
    change(folder, put("segmentation", []))
    masks = sources.object_reader(*examined(folder, "data.accept=[degenerate]")[:2], "train")(0)[1].masks
    assert masks.shape == (2, *SIZE) and not masks[0].any()


def test_polygons_that_reach_out_can_be_accepted(folder):
    change(folder, put("segmentation", [[5, 5, 70, 5, 70, 20, 5, 20]]))
    change(folder, put("bbox", [5, 5, 65, 15]))
    data, found, _ = examined(folder, "data.accept=[outside]")
    objects = sources.object_reader(data, found, "train")(0)[1]
    assert objects.masks[0][:, 39].sum() == 15
    from roadmap.data.dense.transforms import View, show_objects

    assert show_objects(objects, View(0, 0, *SIZE, SIZE), 0).boxes[0].tolist() == [5, 5, 40, 20]


def test_a_broken_file_ends_the_command_with_2_before_torch(folder):
    change(folder, put("category_id", 1))
    code = (
        "import sys; from roadmap.config.compose import compose; from roadmap.data.images import sources; "
        "from roadmap.config.schema import Target; from roadmap.base.errors import Refused\n"
        f"data = compose(['+step=gelu', 'scale=atto', 'task=detection', 'data=coco', 'data.path={folder}']).data\n"
        "try: sources.checked_images(data, 2, Target.objects)\n"
        "except Refused as error: print(error); sys.exit(error.exit_code if 'torch' not in sys.modules else 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 2 and "unknown_category" in ended.stdout, ended.stderr


def test_held_out_pictures_come_from_training(folder):
    data, found, _ = examined(folder, "data.held_out=0.34", "recipe.batch_size=2")
    assert [path.name for path, _ in found.train.files + found.val.files] == ["10.png", "11.png", "12.png"]
    assert len(sources.object_reader(data, found, "val")(0)[1].labels) == 0


def test_run_lengths():
    random = np.random.default_rng(0)
    for share in (0.01, 0.3, 0.99):
        for _ in range(20):
            mask = (random.random(SIZE) < share).astype(np.uint8)
            coded = run_lengths(mask)
            assert decode_runs(coded["counts"]).tolist() == run_lengths(mask, compressed=False)["counts"]
            box = reference_masks.toBbox({"size": list(SIZE), "counts": coded["counts"].encode()})
            left, top, right, bottom = check_mask(coded, SIZE)
            assert [left, top, right - left, bottom - top] == box.tolist()
    for text in ("", "P", "PPPPPPPPPP0", "é0"):
        with pytest.raises(Unfit):
            decode_runs(text)


# --- maps ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mapped(folder):
    random = np.random.default_rng(1)
    for split in ("train", "val"):
        (folder / f"semantic_{split}").mkdir()
        (folder / f"instances_{split}.json").unlink()
        for path in (folder / split).iterdir():
            levels = random.choice([0, 1, 2, 255], SIZE).astype(np.uint8)
            Image.fromarray(levels).save(folder / f"semantic_{split}" / path.name)
    (folder / "classes.txt").write_text("sky\nwall\nroad\n")
    return folder


def test_maps_are_read_as_they_are(mapped):
    data, found, before = examined(mapped, source="maps", target=Target.map)
    assert found.classes == ("sky", "wall", "road")
    image, levels = sources.map_reader(data, found, "val")(2)
    assert np.array_equal(levels, Image.open(mapped / "semantic_val" / "22.png"))
    assert np.array_equal(image, Image.open(mapped / "val" / "22.png"))
    palette = Image.open(mapped / "semantic_val" / "22.png")
    palette.putpalette([value for level in range(256) for value in (level, 255 - level, 7)])
    palette.save(mapped / "semantic_val" / "22.png")
    data, found, after = examined(mapped, source="maps", target=Target.map)
    assert np.array_equal(sources.map_reader(data, found, "val")(2)[1], levels) and after != before


def test_classes_by_number(mapped):
    (mapped / "classes.txt").unlink()
    with pytest.raises(Refused, match=r"in no classes.txt .* data.classes=N"):
        examined(mapped, source="maps", target=Target.map)
    assert examined(mapped, "data.classes=3", source="maps", target=Target.map)[1].classes == ("0", "1", "2")
    ids = {identity(experiment(mapped, *more, source="maps"), "") for more in ([], ["data.classes=3"], ["data.classes=4"])}
    assert len(ids) == 3


def test_names_in_cocos_json(mapped):
    (mapped / "classes.txt").unlink()
    (mapped / "instances_train.json").write_text(json.dumps({"semantic_classes": ["a", "b", "c"]}))
    assert examined(mapped, source="maps", target=Target.map)[1].classes == ("a", "b", "c")


def test_names_may_begin_with_an_editors_mark(mapped):
    (mapped / "classes.txt").write_bytes("\ufeffsky\nwall\nroad\n".encode())
    assert examined(mapped, source="maps", target=Target.map)[1].classes == ("sky", "wall", "road")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"semantic_classes": null}', "semantic_classes=None: must be a list"),
        ('{"semantic_classes": 5}', "semantic_classes=5: must be a list"),
        ('{"semantic_classes": "abc"}', "semantic_classes='abc': must be a list"),
        ('{"semantic_classes": ["a", "b", 3]}', r"3 names of classes, among them \[3\]; must be words"),
        ('{"semantic_classes": ["a", "b", "\\ud800"]}', r"3 names of classes, among them \['.+ud800'\]; must be words"),
        ("{", "its names of classes cannot be read"),
    ],
)
def test_what_is_no_list_of_names_in_cocos_json_is_refused_with_its_file(mapped, content, says):
    (mapped / "classes.txt").unlink()
    (mapped / "instances_train.json").write_text(content)
    with pytest.raises(Refused, match=f"instances_train.json: {says}"):
        examined(mapped, source="maps", target=Target.map)


def ignore_all(split):
    return lambda root: [save(np.full(SIZE, 255, np.uint8), path) for path in (root / f"semantic_{split}").iterdir()]


def save(levels, path, mode=None):
    image = Image.fromarray(levels)
    (image.convert(mode) if mode else image).save(path)


def as_map(levels, mode=None):
    return lambda root: save(levels, root / "semantic_val" / "21.png", mode)


def cut_off(root):
    map_ = root / "semantic_val" / "21.png"
    map_.write_bytes(map_.read_bytes()[:150])


LABEL = r"21.png: label: has levels \[3\]; classes are 0 to 2"
OTHER_SIZE = r"21.png: size: height, width \[40, 30\]; its picture has \[30, 40\]"
MAP_FAULTS = {
    "label_out_of_range": (as_map(np.full(SIZE, 3, np.uint8)), LABEL),
    "other_size": (as_map(np.zeros(SIZE[::-1], np.uint8)), OTHER_SIZE),
    "nothing_to_learn": (ignore_all("train"), "semantic_train: no map has a pixel of a class"),
    "nothing_to_score": (ignore_all("val"), "semantic_val: no map has a pixel of a class"),
    "control": (lambda root: (root / "classes.txt").write_text("a\0\nb\nc\n"), r"among them \['a.x00'\]; must be words"),
    "in_colour": (as_map(np.zeros(SIZE, np.uint8), "RGB"), "21.png: map: of mode RGB"),
    "sixteen_bit": (as_map(np.zeros(SIZE, np.uint16)), "21.png: sixteen_bit"),
    "damaged": (cut_off, "21.png: damaged"),
    "missing": (lambda root: (root / "semantic_val" / "21.png").unlink(), "maps that are not there: 1: .*semantic_val/21.png"),
    "no_maps": (lambda root: shutil.rmtree(root / "semantic_val"), "there is no folder .*semantic_val"),
    "two_pictures": (lambda root: shutil.copy(root / "val" / "21.png", root / "val" / "21.jpg"), "two have one map: 1: .*21.png"),
    "no_pictures": (lambda root: [path.unlink() for path in (root / "val").iterdir()], "val: no pictures there"),
    "text": (lambda root: (root / "val" / "notes.txt").write_text("x"), "notes.txt: not an image by its name"),
    "name_twice": (
        lambda root: (root / "classes.txt").write_text("a\nb\na\n"),
        r"3 names of classes, among them \['a'\]; must be words, each once",
    ),
}


@pytest.mark.parametrize("fault", MAP_FAULTS)
def test_a_fault_in_maps_is_refused(mapped, fault):
    damage, message = MAP_FAULTS[fault]
    damage(mapped)
    with pytest.raises(Refused, match=message):
        examined(mapped, source="maps", target=Target.map)


def test_ade20k(mapped, tmp_path_factory):
    root = tmp_path_factory.mktemp("ade")
    for split, name in (("train", "training"), ("val", "validation")):
        for kind, folder in (("images", split), ("annotations", f"semantic_{split}")):
            shutil.copytree(mapped / folder, root / kind / name)
            if kind == "annotations":
                for path in (root / kind / name).iterdir():
                    levels = np.asarray(Image.open(path)).copy()
                    save(np.where(levels == 255, 0, levels + 148).astype(np.uint8), path)
    data, found, _ = examined(root, source="ade20k", target=Target.map)
    assert len(found.classes) == 150
    _, levels = sources.map_reader(data, found, "train")(0)
    stored = np.asarray(Image.open(root / "annotations" / "training" / "10.png"))
    assert set(np.unique(levels)) == {147, 148, 149, 255} and np.array_equal(levels == 255, stored == 0)
    save(np.full(SIZE, 151, np.uint8), root / "annotations" / "training" / "10.png")
    with pytest.raises(Refused, match=r"10.png: label: has levels \[151\]; classes are 0 to 150"):
        examined(root, source="ade20k", target=Target.map)
    for path in (root / "annotations" / "training").iterdir():
        save(np.zeros(SIZE, np.uint8), path)
    with pytest.raises(Refused, match="training: no map has a pixel of a class"):
        examined(root, source="ade20k", target=Target.map)


# --- real pictures ---------------------------------------------------------------------------------------------------


@pytest.mark.photographs
@pytest.mark.parametrize(("name", "classes", "maps"), [("nuclei256", 1, 3), ("coco53", 80, 133)])
def test_real_pictures(name, classes, maps):
    """Nothing of them is refused, and what is read is what pycocotools reads."""
    archive = SHARED / f"{name}.zip"
    data, found, _ = examined(archive)
    assert len(found.classes) == classes
    reference = COCO()
    with zipfile.ZipFile(archive) as content:
        reference.dataset = json.loads(content.read(f"{name}/instances_val.json"))
    reference.createIndex()
    read = sources.object_reader(data, found, "val")
    for index, picture in enumerate(reference.dataset["images"]):
        image, objects = read(index)
        expected = reference.imgToAnns[picture["id"]]
        assert image.size == (picture["width"], picture["height"])
        assert [mask.sum() for mask in objects.masks] == [one["area"] for one in expected]
        if expected:
            assert np.abs(fit_boxes(objects.masks) - objects.boxes).max() <= 1
    more = ["data.classes=3"] if name == "nuclei256" else []
    assert len(examined(archive, *more, source="maps", target=Target.map)[1].classes) == maps
