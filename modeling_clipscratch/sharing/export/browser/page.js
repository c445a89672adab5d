// What is chosen, dropped, pasted and typed goes in; bars and pictures, or a sentence about what is wrong, come out.
"use strict";

const MOST_SHOWN = 24; // pictures
const $ = (id) => document.getElementById(id);
const gallery = []; // {name, url, embed}
const textEmbeds = new Map(); // a label is encoded once
let current = null; // of the gallery
let working = Promise.resolve(); // one thing after the other: the model does one at a time
let naming = 0;

function say(id, sentence) {
  $(id).textContent = sentence;
}

function fail(error) {
  $("error").hidden = false;
  say("error", error.message || String(error));
}

function then(work) {
  working = working.then(async () => {
    $("error").hidden = true;
    await work();
  }).catch(fail);
  return working;
}

async function textEmbed(text) {
  if (!textEmbeds.has(text)) textEmbeds.set(text, await embedText(text));
  return textEmbeds.get(text);
}

function thumbnail(picture, image) {
  image.onload = () => image.classList.toggle("pixels", image.naturalWidth < 96);
  image.src = picture.url;
  image.alt = picture.name;
}

function labelsGiven() {
  const given = $("labels").value.trim(); // a label may have a comma where each has a line
  const labels = given.split(given.includes("\n") ? "\n" : ",").map((label) => label.trim()).filter(Boolean);
  if (new Set(labels).size < labels.length) throw new Error("A label stands twice among the labels; name each once.");
  if (labels.length < 2) throw new Error("Write two labels or more; a picture is compared with them.");
  if (!$("template").value.includes("{}")) throw new Error("The template has no {}, where the label goes.");
  return labels;
}

async function namePicture() {
  const mine = ++naming;
  $("bars").replaceChildren();
  if (current === null) return say("name-note", "Choose a picture, and its labels are ranked here.");
  let labels;
  try {
    labels = labelsGiven();
  } catch (error) {
    return say("name-note", error.message);
  }
  say("name-note", "Reading the labels ...");
  const embeds = [];
  for (const label of labels) {
    embeds.push(await textEmbed($("template").value.replaceAll("{}", () => label)));
    await new Promise((resolve) => setTimeout(resolve)); // lets the browser draw, and take what is typed meanwhile
    if (mine !== naming) return undefined;
  }
  const parts = probabilities(embeds.map((embed) => cosine(current.embed, embed)));
  const ranked = labels.map((label, place) => ({ label, part: parts[place] })).sort((a, b) => b.part - a.part);
  $("bars").replaceChildren(...ranked.map(barOf));
  return say("name-note", `${current.name}: shares of 100 % among these labels.`);
}

function barOf({ label, part }) {
  const row = document.createElement("li");
  const [name, bar, fill, number] = ["span", "span", "i", "data"].map((tag) => document.createElement(tag));
  name.textContent = label;
  bar.className = "bar";
  fill.style.width = `${100 * part}%`;
  bar.append(fill);
  number.value = part;
  number.textContent = `${(100 * part).toFixed(1)} %`;
  row.append(name, bar, number);
  return row;
}

function show(picture) {
  current = picture;
  $("shown").hidden = false;
  thumbnail(picture, $("shown"));
  return namePicture();
}

async function addPictures(files) {
  for (const [place, file] of files.entries()) {
    say("name-note", `Reading ${file.name} (${place + 1} of ${files.length}) ...`);
    await new Promise((resolve) => setTimeout(resolve));
    try {
      gallery.unshift({ name: file.name || "pasted picture", url: URL.createObjectURL(file), embed: await embedPicture(file) });
      current = gallery[0];
    } catch (error) {
      fail(error);
    }
  }
  await (current === null ? namePicture() : show(current));
  return search();
}

async function search() {
  const query = $("query").value.trim();
  let found = gallery.map((picture) => ({ picture }));
  if (query) {
    const embed = await textEmbed(query);
    found = gallery.map((picture) => ({ picture, score: cosine(picture.embed, embed) }));
    found.sort((a, b) => b.score - a.score);
  }
  $("hits").replaceChildren(...found.slice(0, MOST_SHOWN).map(hitOf));
  const shown = Math.min(MOST_SHOWN, found.length);
  say("search-note", found.length === 0
    ? "No pictures yet: those that you choose above can be searched here."
    : query
      ? `The ${shown} nearest of ${found.length} pictures; the number is the cosine, at most 1.`
      : `${shown} of ${found.length} pictures. Choose one to name it.`);
}

function hitOf({ picture, score }) {
  const entry = document.createElement("li");
  const [button, image, line, name] = ["button", "img", "span", "b"].map((tag) => document.createElement(tag));
  button.type = "button";
  button.title = "Name this picture";
  button.onclick = () => then(() => show(picture));
  image.loading = "lazy";
  thumbnail(picture, image);
  button.append(image);
  name.textContent = picture.name;
  line.append(name);
  if (score !== undefined) {
    const number = document.createElement("data");
    number.value = score;
    number.textContent = score.toFixed(3);
    line.append(number);
  }
  entry.append(button, line);
  return entry;
}

function preparePictures() {
  const { names, embeds, size } = SETTINGS.pictures;
  const values = new Float32Array(fromBase64(embeds).buffer);
  for (const [place, name] of names.entries()) {
    gallery.push({ name, url: `pictures/${place}.jpg`, embed: values.subarray(place * size, (place + 1) * size) });
  }
}

function listen() {
  const add = (list) => {
    const files = [...list]; // now: the list is emptied when its event ends
    if (files.length) then(() => addPictures(files));
  };
  $("files").onchange = () => { add($("files").files); $("files").value = ""; };
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  }
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => { event.preventDefault(); add(event.dataTransfer.files); });
  document.addEventListener("paste", (event) => add(event.clipboardData.files));
  for (const id of ["labels", "template"]) $(id).oninput = () => { naming++; then(namePicture); };
  $("search").onsubmit = (event) => { event.preventDefault(); then(search); };
  $("files").disabled = $("search").querySelector("button").disabled = false;
}

async function start() {
  document.title = `${SETTINGS.name} in the browser`;
  say("title", SETTINGS.name);
  $("labels").value = SETTINGS.labels.join(SETTINGS.labels.some((label) => label.includes(",")) ? "\n" : ", ");
  $("template").value = SETTINGS.template;
  preparePictures();
  if (typeof WebAssembly === "undefined" || typeof DecompressionStream === "undefined") {
    throw new Error("This browser is too old for this page: it has no WebAssembly or DecompressionStream (2023).");
  }
  await loadModel((stage, part) => { say("stage", stage); $("progress").value = part; });
  $("loading").hidden = true;
  listen();
  await namePicture();
  await search();
}

start().catch((error) => { $("loading").hidden = true; fail(error); });
