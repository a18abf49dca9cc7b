// The pad. Gradio runs this once with `element`, the pad's HTML, `props` and `trigger`.
// Strokes are kept as points, so that one can be taken back; every change is sent as a PNG.
const canvas = element.querySelector('canvas'), pen = canvas.getContext('2d');
let strokes = [], stroke = null;
function paint() {
  pen.fillStyle = '#fff';
  pen.fillRect(0, 0, canvas.width, canvas.height);
  Object.assign(pen, {strokeStyle: '#111', lineWidth: 24, lineCap: 'round', lineJoin: 'round'});
  for (const points of strokes) {
    pen.beginPath();
    pen.moveTo(points[0][0] + 0.1, points[0][1]);  // a line without length, a tap, has no dot
    for (const point of points) pen.lineTo(...point);
    pen.stroke();
  }
  element.querySelector('span').hidden = strokes.length > 0;
  for (const button of element.querySelectorAll('button')) button.disabled = !strokes.length;
}
function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width,
          (event.clientY - box.top) * canvas.height / box.height];
}
function send() {
  props.value = strokes.length ? canvas.toDataURL('image/png') : '';
  trigger('input');
}
canvas.addEventListener('pointerdown', (event) => {
  if (!event.isPrimary || event.button) return;
  canvas.setPointerCapture(event.pointerId);
  strokes.push(stroke = [place(event)]);
  paint();
});
canvas.addEventListener('pointermove', (event) => {
  if (!stroke || !event.isPrimary) return;
  stroke.push(place(event));
  paint();
});
for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, (event) => {
  if (!stroke || !event.isPrimary) return;
  stroke = null;
  send();
});
element.querySelector('.undo').onclick = () => { strokes.pop(); paint(); send(); };
element.querySelector('.clear').onclick = () => { strokes = []; paint(); send(); };
paint();
