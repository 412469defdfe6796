// The latent pad: a two-dimensional slider for pointers and arrow keys. Both axes go from -2 to 2; up is positive.

const RANGE = 2, STEP = 0.1, LARGE_STEP = 0.5;
const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};

const clamp = (value) => Math.round(100 * Math.min(RANGE, Math.max(-RANGE, value))) / 100 || 0;

// Makes `element` a pad; returns {x, y, seed, moveTo}. `onMove` is called at each move, `onRest` at the end of one.
export function makePad(element, onMove, onRest) {
  const handle = element.querySelector("span"), value = document.querySelector(`output[for=${element.id}]`);
  const pad = {x: 0, y: 0, seed: 0, moveTo};

  function show() {
    handle.style.left = `${50 + 50 * pad.x / RANGE}%`;
    handle.style.top = `${50 - 50 * pad.y / RANGE}%`;
    value.textContent = `${pad.x.toFixed(2)}, ${pad.y.toFixed(2)}`;
    element.setAttribute("aria-valuenow", pad.x);
    element.setAttribute("aria-valuetext", `${pad.x.toFixed(2)} across, ${pad.y.toFixed(2)} up`);
  }

  function move(x, y) {
    [pad.x, pad.y] = [clamp(x), clamp(y)];
    show();
    onMove();
  }

  function moveTo(x, y) {
    move(x, y);
    onRest();
  }

  function follow(event) {
    const box = element.getBoundingClientRect();
    move(RANGE * (2 * (event.clientX - box.left) / box.width - 1), RANGE * (1 - 2 * (event.clientY - box.top) / box.height));
  }

  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    element.setPointerCapture(event.pointerId);
    follow(event);
  });
  element.addEventListener("pointermove", (event) => element.hasPointerCapture(event.pointerId) && follow(event));
  element.addEventListener("lostpointercapture", onRest);
  element.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key], step = event.shiftKey ? LARGE_STEP : STEP;
    if (!arrow && event.key !== "Home") return;
    event.preventDefault();
    if (arrow) moveTo(pad.x + step * arrow[0], pad.y + step * arrow[1]);
    else moveTo(0, 0);
  });
  show();
  return pad;
}
