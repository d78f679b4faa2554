// Map of a plane of the latent space. Value: "x,y", each from -1 (left, bottom) to 1.
const map = element.querySelector(".map");
const marker = element.querySelector(".marker");

function place() {
  const [x, y] = (props.value || "0,0").split(",").map(Number);
  marker.style.left = `${(x + 1) * 50}%`;
  marker.style.top = `${(1 - y) * 50}%`;
}

function move(event) {
  if (event.type === "pointermove" && !event.buttons) return;
  const box = map.getBoundingClientRect();
  const limit = (value) => Math.min(1, Math.max(-1, value)).toFixed(3);
  const x = limit(((event.clientX - box.left) / box.width) * 2 - 1);
  const y = limit(1 - ((event.clientY - box.top) / box.height) * 2);
  props.value = `${x},${y}`;
  place();
  trigger("input");
}

map.addEventListener("pointerdown", (event) => {
  map.setPointerCapture(event.pointerId);
  move(event);
});
map.addEventListener("pointermove", move);
watch("value", place);
place();
