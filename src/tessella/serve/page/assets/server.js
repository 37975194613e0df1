"use strict";

const $ = (id) => document.getElementById(id);
const AWAY = "The server does not answer. What you wrote is still here; try again in a moment.";

/** What the server says is wrong, or that it says nothing. */
class Refused extends Error {}

/** The response to a question of this page. Throws Refused with one line, and AbortError where it was stopped. */
async function call(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const key = sessionStorage.getItem("tessella-key");
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    const sent = body === undefined ? undefined : JSON.stringify(body);
    response = await fetch(path, { method: sent ? "POST" : "GET", headers, body: sent, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(AWAY);
  }
  if (response.ok) return response;
  if (response.status === 401) {
    $("entry").hidden = false;
    throw new Refused(key ? "The server does not know this API key." : "This server needs an API key.");
  }
  const told = await response.json().catch(() => null);
  throw new Refused(told?.error?.message ?? `The server answers with status ${response.status}.`);
}

/** The messages of a stream, one by one. Throws Refused where it breaks off. */
async function* messages(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused("The connection broke off. What you wrote is still here; ask again.");
    }
    if (piece.done) return;
    const parts = (rest + piece.value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part.slice("data: ".length));
  }
}

function tell(line) {
  $("error").textContent = line;
}

$("key").addEventListener("change", () => {
  sessionStorage.setItem("tessella-key", $("key").value.trim());
  tell("");
  loadMethods();
});
