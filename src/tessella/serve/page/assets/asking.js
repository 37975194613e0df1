let running = null; // what stops the question that is being answered
let result = ""; // the number under which the server holds the last result

function isReady() {
  const missing = !picture.url ? ["Choose a picture first.", "file"]
    : !$("question").value.trim() ? ["Write a question first.", "question"]
    : !chosen.length ? ["Choose a method first.", "filter"] : null;
  if (!missing) return true;
  tell(missing[0]);
  $(missing[1]).focus();
  return false;
}

async function ask() {
  if (running) running.abort();
  if (!isReady()) return;
  const mine = running = new AbortController();
  tell("");
  begin();
  const body = { picture: picture.url, question: $("question").value, methods: chosen, keep: keep() };
  try {
    for await (const message of messages(await call("page/compare", body, mine.signal))) show(message);
    if (running === mine) finish(result ? "Every answer is complete." : "The answers broke off; ask again.");
  } catch (error) {
    if (running !== mine) return; // another question was asked meanwhile
    if (error.name === "AbortError") finish("Stopped.");
    else {
      tell(error.message);
      finish("");
    }
  } finally {
    if (running === mine) running = null;
  }
}

function begin() {
  result = "";
  $("stop").hidden = false;
  $("sharing").hidden = $("shared").hidden = true;
  $("share").hidden = false;
  $("asked").textContent = $("question").value.trim();
  $("cards").replaceChildren();
  $("status").textContent = "Asking ...";
  $("results").hidden = false;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  $("results").scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
}

function finish(line) {
  $("stop").hidden = true;
  $("status").textContent = line;
  for (const card of $("cards").querySelectorAll(".busy")) card.classList.remove("busy");
  if (!$("cards").childElementCount) $("results").hidden = true;
  $("sharing").hidden = !result;
}

/** One message of the stream: new columns, something new in one of them, or the number of the whole result. */
function show(message) {
  if (message.columns) {
    for (const name of message.columns) {
      const card = $("card").content.cloneNode(true);
      card.querySelector("h3").textContent = name;
      card.querySelector(".card").classList.add("busy");
      $("cards").append(card);
    }
  }
  if (message.result) result = message.result;
  if (message.column === undefined) return;
  const card = $("cards").children[message.column];
  for (const slot of ["view", "facts", "verdict"]) {
    if (message[slot] !== undefined) card.querySelector(`.${slot}`).innerHTML = message[slot];
  }
  if (message.text) card.querySelector(".answer").textContent += message.text;
  if (message.error) card.querySelector(".wrong").textContent = message.error;
  if (message.done || message.error) {
    card.classList.remove("busy");
    const said = message.error || card.querySelector(".answer").textContent;
    $("status").textContent = `${card.querySelector("h3").textContent}: ${said}`;
  }
}

async function share() {
  try {
    const found = await (await call("page/share", { result })).json();
    $("link").value = new URL(found.path, location.href).href;
    $("share").hidden = true;
    $("shared").hidden = false;
    $("link").focus();
    $("link").select();
    $("status").textContent = found.until;
  } catch (error) {
    tell(error.message);
  }
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("stop").addEventListener("click", () => running?.abort());
$("share").addEventListener("click", share);
$("copy").addEventListener("click", async () => {
  $("link").select();
  await navigator.clipboard.writeText($("link").value).catch(() => document.execCommand("copy"));
  $("status").textContent = "The link is copied.";
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    ask();
  }
  if (event.key === "Escape") running?.abort();
});

showBudget();
loadMethods();
