/** The picture as a data URL, and the visual tokens that it becomes once the server has said so. */
const picture = { url: "", tokens: null, turn: 0 };

function readFile(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Refused("This file cannot be read."));
    reader.readAsDataURL(file);
  });
}

function note(line, isBad = false) {
  $("picture-note").textContent = line;
  $("picture-note").classList.toggle("bad", isBad);
}

async function useFile(file) {
  try {
    if (!file.type.startsWith("image/")) throw new Refused(`'${file.name}' is not a picture.`);
    if (file.size * 4 / 3 > limits.bytes) {
      throw new Refused(`'${file.name}' is too large: at most ${Number((limits.bytes * 3 / 4e6).toPrecision(2))} MB are taken.`);
    }
    await usePicture(await readFile(file));
  } catch (error) {
    note(error.message, true);
  }
}

/** Show a picture, once the server has opened it; one that it cannot open leaves the one before in its place. */
async function usePicture(url) {
  const turn = ++picture.turn;
  note("Opening the picture ...");
  try {
    const found = await (await call("page/picture", { picture: url })).json();
    if (turn !== picture.turn) return false;
    Object.assign(picture, { url, tokens: found.visual_tokens });
    $("preview").src = url;
    $("preview").hidden = false;
    $("drop").classList.add("full");
    document.querySelector("label[for=file]").textContent = "Choose another picture";
    note(`${found.width} x ${found.height} pixels, ${found.visual_tokens} visual tokens`);
    showBudget();
    return true;
  } catch (error) {
    if (turn === picture.turn) note(error.message, true);
    return false;
  }
}

$("file").addEventListener("change", () => {
  if ($("file").files.length) useFile($("file").files[0]);
  $("file").value = "";
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
  if (!file) return;
  event.preventDefault();
  useFile(file);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  if (event.dataTransfer.files.length) useFile(event.dataTransfer.files[0]);
});
for (const button of document.querySelectorAll(".examples button")) {
  button.addEventListener("click", async () => {
    $("question").value = button.dataset.question;
    if (await usePicture(button.querySelector("img").src)) ask();
  });
}
