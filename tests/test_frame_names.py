"""Do the names of transforms cancel everywhere, as in `a_from_c = a_from_b @ b_from_c`?

The names are read from the syntax tree: a product whose inner names differ, or an assignment whose name contradicts its value,
is a mistake in the code or in the name. A frame may carry its instant (`ego_at_cam`, `ego_before`, and `prev` for the ego frame
of the step before); a name without one fits any instant. A line with the comment `# frame names: ...` explains itself and is left out.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("scenes", "perception", "fusion", "training", "evaluation", "labeling", "export", "benchmarks", "examples", "tests")
TRANSFORM = re.compile(r"(?P<to>[a-z][a-z0-9_]*?)_from_(?P<source>[a-z0-9_]+?)(_[A-Z]+[0-9]*)?")
INVERSES = ("inv", "inverse", "invert_rigid", "invert")

INSTANT = re.compile(r"_(at_[a-z0-9_]+|before|now)$")

Frames = tuple[str, str]


def frames_of(node: ast.AST) -> Frames | None:
    """(to, from) of an expression, None where its names say nothing."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            found = TRANSFORM.fullmatch(name)
            return (found["to"], found["source"]) if found else None
        case ast.Subscript(value=value):
            return frames_of(value)
        case ast.BinOp(left=left, op=ast.MatMult(), right=right):
            outer, inner = frames_of(left), frames_of(right)
            return (outer[0], inner[1]) if outer and inner else None
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[argument]) if name in INVERSES:
            inner = frames_of(argument)
            return (inner[1], inner[0]) if inner else None
        case ast.Call(func=ast.Attribute(value=value, attr=name), args=[]) if name in INVERSES:
            inner = frames_of(value)
            return (inner[1], inner[0]) if inner else None
    return None


def same_frame(a: str, b: str) -> bool:
    """Whether two frame names can mean one frame: the same name, and not two different instants."""
    a, b = ("ego_before" if name == "prev" else name for name in (a, b))
    times = {found[0] for name in (a, b) if (found := INSTANT.search(name))}
    return INSTANT.sub("", a) == INSTANT.sub("", b) and len(times) < 2


def contradictions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of products whose inner frames differ and of assignments named otherwise than their value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            outer, inner = frames_of(node.left), frames_of(node.right)
            if outer and inner and not same_frame(outer[1], inner[0]):
                yield node.lineno, f"{outer[0]}_from_{outer[1]} @ {inner[0]}_from_{inner[1]}"
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = frames_of(node.targets[0]), frames_of(node.value)
            if not target or not value or same_frame(*value):  # the motion of one frame between two instants says too little
                continue
            if not (same_frame(target[0], value[0]) and same_frame(target[1], value[1])):
                yield node.lineno, f"{target[0]}_from_{target[1]} = {value[0]}_from_{value[1]}"


def contradictions_of_file(path: Path) -> Iterator[str]:
    """One line of text for each contradiction that the file does not explain."""
    lines = path.read_text().splitlines()
    for line, what in contradictions(ast.parse("\n".join(lines))):
        if "# frame names:" not in lines[line - 1]:
            yield f"{path.relative_to(REPOSITORY)}:{line}: {what}"


@pytest.mark.parametrize(
    ("code", "num_wrong"),
    [
        ("cam_from_world = cam_from_ego @ ego_from_world", 0),
        ("cam_from_world = cam_from_ego @ world_from_ego", 2),
        ("cam_from_world = cam_from_ego @ invert_rigid(world_from_ego)", 0),
        ("world_from_cam = camera.cam_from_ego @ ego_from_world", 1),
        ("world_from_cam = view.world_from_ego_at_cam @ camera.ego_from_cam", 0),
        ("p = cam_from_ego_at_cam @ ego_at_ref_from_world", 1),
        ("prev_from_ego = invert_rigid(before.world_from_ego) @ now.world_from_ego", 0),
        ("p = cam_from_ego_BN44[:, 0] @ ego_from_world_B44", 0),
        ("p = a_from_b @ b_from_c @ d_from_e", 1),
        ("ego_from_cam = np.linalg.inv(cam_from_ego)", 0),
        ("ego_from_cam = cam_from_ego.inverse()", 0),
        ("cam_from_ego = np.linalg.inv(cam_from_ego)", 1),
        ("y = w @ x", 0),
    ],
)
def test_the_check_itself(code, num_wrong):
    assert len(list(contradictions(ast.parse(code)))) == num_wrong


def test_frame_names_cancel_in_the_whole_tree():
    paths = [path for folder in FOLDERS for path in sorted((REPOSITORY / folder).rglob("*.py"))] + [REPOSITORY / "surround4d.py"]
    assert len(paths) > 20
    wrong = [text for path in paths for text in contradictions_of_file(path)]
    assert not wrong, "\n".join(wrong)
