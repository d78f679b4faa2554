// Drawing canvas of the playground. Value: JSON of {image, mask}, two images as data URLs. mask is
// "" if nothing is marked, and the whole value is "" for an empty canvas.
const [image, mask] = element.querySelectorAll("canvas");
const colour = element.querySelector("[type=color]");
const size = element.querySelector("[type=range]");
const pen = image.getContext("2d", { willReadFrequently: true });
const marker = mask.getContext("2d", { willReadFrequently: true });
let tool = "draw";
let drawing = false;
let sent = null; // the value of this page; other values come from the server

function clear() {
  pen.fillStyle = "white";
  pen.fillRect(0, 0, image.width, image.height);
  marker.clearRect(0, 0, mask.width, mask.height);
}

function send() {
  const marked = marker.getImageData(0, 0, mask.width, mask.height).data.some((value) => value);
  sent = JSON.stringify({ image: image.toDataURL(), mask: marked ? mask.toDataURL() : "" });
  props.value = sent;
  trigger("input");
}

// Show the centre of an image, scaled to fill the canvas.
function show(source, width, height) {
  clear();
  const scale = Math.max(image.width / width, image.height / height);
  const [w, h] = [width * scale, height * scale];
  pen.imageSmoothingQuality = "high";
  pen.drawImage(source, (image.width - w) / 2, (image.height - h) / 2, w, h);
}

function position(event) {
  const box = mask.getBoundingClientRect();
  return [
    ((event.clientX - box.left) * mask.width) / box.width,
    ((event.clientY - box.top) * mask.height) / box.height,
  ];
}

function choose(name) {
  tool = name;
  element.querySelectorAll("[data-tool]").forEach((button) => {
    button.setAttribute("aria-pressed", button.dataset.tool === name);
  });
}

element.querySelectorAll("[data-tool]").forEach((button) => {
  button.addEventListener("click", () => choose(button.dataset.tool));
});
element.querySelector("[data-clear]").addEventListener("click", () => {
  clear();
  props.value = sent = "";
  trigger("input");
});
element.querySelector("[type=file]").addEventListener("change", async (event) => {
  const file = event.target.files[0];
  event.target.value = "";
  if (!file) return;
  try {
    const bitmap = await createImageBitmap(file);
    show(bitmap, bitmap.width, bitmap.height);
    bitmap.close();
    send();
  } catch {
    alert(`${file.name} cannot be read as an image`);
  }
});

mask.addEventListener("pointerdown", (event) => {
  drawing = true;
  mask.setPointerCapture(event.pointerId);
  const context = tool === "mark" ? marker : pen;
  context.strokeStyle = { draw: colour.value, erase: "white", mark: "#ea580c" }[tool];
  context.lineWidth = Number(size.value) * (tool === "draw" ? 1 : 3);
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...position(event));
  context.lineTo(...position(event));
  context.stroke();
});
mask.addEventListener("pointermove", (event) => {
  if (!drawing) return;
  const context = tool === "mark" ? marker : pen;
  context.lineTo(...position(event));
  context.stroke();
});
for (const end of ["pointerup", "pointercancel"]) {
  mask.addEventListener(end, () => {
    if (drawing) send();
    drawing = false;
  });
}

watch("value", () => {
  if (!props.value || props.value === sent) return;
  sent = props.value;
  const loaded = new Image();
  loaded.onload = () => show(loaded, loaded.width, loaded.height);
  loaded.src = JSON.parse(props.value).image;
});
clear();
choose("draw");
