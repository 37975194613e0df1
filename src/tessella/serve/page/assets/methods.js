const DENOMINATORS = [1, 2, 3, 4, 6, 9, 12, 16, 25, 36, 49];
const limits = { bytes: Infinity, methods: 4 };
let known = []; // methods as the server lists them
const chosen = []; // their pipelines, in the order in which they were chosen

async function loadMethods() {
  try {
    const found = await (await call("page/methods")).json();
    known = found.methods;
    Object.assign(limits, found.limits);
    $("model").textContent = `Model: ${found.model}.`;
    $("entry").hidden = true;
    if (!chosen.length) chosen.push(...found.chosen);
    known.sort((a, b) => chosen.includes(b.pipeline) - chosen.includes(a.pipeline));
    showMethods();
    showChosen();
  } catch (error) {
    tell(error.message);
  }
}

/** A method's row: a box to tick, its name, and where the model cannot carry it the reason. */
function methodRow(method) {
  const row = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", value: method.pipeline });
  box.checked = chosen.includes(method.pipeline);
  box.disabled = Boolean(method.reason) || (!box.checked && chosen.length >= limits.methods);
  box.addEventListener("change", () => toggle(method.pipeline));
  const name = Object.assign(document.createElement("code"), { textContent: method.pipeline });
  const words = Object.assign(document.createElement("small"), { textContent: method.reason || method.about });
  row.append(box, name, words);
  row.classList.toggle("cannot", Boolean(method.reason));
  return row;
}

function showMethods() {
  const wanted = $("filter").value.trim().toLowerCase();
  const found = known.filter((m) => `${m.pipeline} ${m.about}`.toLowerCase().includes(wanted));
  const none = Object.assign(document.createElement("p"), { textContent: "No method has this name." });
  const top = $("methods").scrollTop;
  const focused = document.activeElement?.closest("#methods") ? document.activeElement.value : null;
  $("methods").replaceChildren(...(found.length ? found.map(methodRow) : [none]));
  $("methods").scrollTop = top;
  if (focused) [...$("methods").querySelectorAll("input")].find((box) => box.value === focused)?.focus();
  const isPipeline = /[:|(@]/.test(wanted) && !chosen.includes($("filter").value.trim());
  $("add").hidden = !isPipeline || chosen.length >= limits.methods;
  $("add").textContent = `Add the pipeline ${$("filter").value.trim()}`;
}

function showChosen() {
  const items = chosen.map((pipeline) => {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: `${pipeline} ×` });
    button.setAttribute("aria-label", `Leave out ${pipeline}`);
    button.addEventListener("click", () => {
      toggle(pipeline);
      ($("chosen").querySelector("button") ?? $("filter")).focus();
    });
    item.append(button);
    return item;
  });
  $("chosen").replaceChildren(...items);
}

function toggle(pipeline) {
  const place = chosen.indexOf(pipeline);
  if (place >= 0) chosen.splice(place, 1);
  else chosen.push(pipeline);
  showMethods();
  showChosen();
}

const keep = () => `1/${DENOMINATORS[$("keep").value]}`;

function showBudget() {
  const kept = picture.tokens === null ? null : Math.max(1, Math.round(picture.tokens / DENOMINATORS[$("keep").value]));
  const words = kept === null ? keep() : `${keep()}, about ${kept} of ${picture.tokens} visual tokens`;
  $("budget").textContent = words;
  $("keep").setAttribute("aria-valuetext", words);
}

$("filter").addEventListener("input", showMethods);
$("filter").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const boxes = $("methods").querySelectorAll("input:not(:disabled)");
  if (!$("add").hidden) $("add").click();
  else if (boxes.length === 1) boxes[0].click();
});
$("add").addEventListener("click", () => {
  const pipeline = $("filter").value.trim();
  $("filter").value = "";
  toggle(pipeline);
  $("filter").focus();
});
$("keep").max = DENOMINATORS.length - 1;
$("keep").value = DENOMINATORS.indexOf(9);
$("keep").addEventListener("input", showBudget);
