"""Write `samples/animation.webp`: the previews with fixed seeds, over the course of training."""

from pathlib import Path

from PIL import Image

MAX_FRAMES = 48  # evenly chosen previews, always with the first and the last one
MAX_PIXELS = 1_000_000  # of a frame; larger frames are made smaller
FRAME_MS, LAST_MS = 150, 2000  # duration of a frame, and of the last frame


def frames_of(folder: Path, name: str) -> list[Path]:
    """Return at most `MAX_FRAMES` files `<name>-<update>.png`, in the order of updates."""
    files = sorted(path for path in folder.glob(f"{name}-*.png") if is_step(path, name))
    if len(files) <= MAX_FRAMES:
        return files
    last = len(files) - 1
    return [files[number * last // (MAX_FRAMES - 1)] for number in range(MAX_FRAMES)]


def is_step(path: Path, name: str) -> bool:
    """Return whether the part of a file name after `<name>-` is a number."""
    return path.stem.removeprefix(f"{name}-").isdecimal()


def write_animation(folder: Path, name: str) -> Path | None:
    """Write an animation of all previews with one name.

    Args:
        folder: Folder `samples/` of a run.
        name: Name of the previews, such as "samples".

    Returns:
        Path of the animation; None if there are fewer than two previews.
    """
    images = []
    for path in frames_of(folder, name):
        with Image.open(path) as file:
            images.append(file.convert("RGB"))
    if len(images) < 2:
        return None
    width, height = (max(image.size[axis] for image in images) for axis in (0, 1))
    scale = min(1.0, (MAX_PIXELS / (width * height)) ** 0.5)
    frames = []
    for image in images:  # titles may differ in width
        frame = Image.new("RGB", (width, height), "white")
        frame.paste(image)
        if scale < 1:
            size = round(width * scale), round(height * scale)
            frame = frame.resize(size, Image.Resampling.LANCZOS)
        frames.append(frame)
    path = folder / "animation.webp"
    temporary = folder / "animation.tmp"
    frames[0].save(
        temporary,
        format="WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=[FRAME_MS] * (len(frames) - 1) + [LAST_MS],
        loop=0,
        quality=80,
        method=2,
    )
    temporary.replace(path)
    return path
