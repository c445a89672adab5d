// React to what is chosen, dropped, pasted and typed: rank labels for an image, and search the images.
"use strict";

const MOST_SHOWN = 24; // images
const $ = (id) => document.getElementById(id);
const gallery = []; // {name, url, embed}
const textEmbeds = new Map(); // each text is encoded once
let current = null; // entry of the gallery
let working = Promise.resolve(); // one call of the model at a time
let ranking = 0; // number of the last ranking, which outdates the ones before it

function say(id, message) {
  $(id).textContent = message;
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

const pause = () => new Promise((resolve) => setTimeout(resolve)); // lets the browser draw and take input

async function textEmbed(text) {
  if (!textEmbeds.has(text)) textEmbeds.set(text, await embedText(text));
  return textEmbeds.get(text);
}

function noteOfUnknown(text) {
  const unknown = unknownWords(text);
  return unknown.length ? ` The tokenizer does not know these words: ${unknown.join(", ")}.` : "";
}

function thumbnail(entry, image) {
  image.onload = () => image.classList.toggle("pixels", image.naturalWidth < 96);
  image.src = entry.url;
  image.alt = entry.name;
}

function readLabels() {
  const text = $("labels").value.trim(); // a label may hold a comma if each has a line
  const labels = text.split(text.includes("\n") ? "\n" : ",").map((label) => label.trim()).filter(Boolean);
  if (new Set(labels).size < labels.length) throw new Error("A label appears twice; write each once.");
  if (labels.length < 2) throw new Error("Write at least two labels, to compare the image with.");
  if (!$("template").value.includes("{}")) throw new Error("The template has no {}, which stands for the label.");
  return labels;
}

async function rankLabels() {
  const mine = ++ranking;
  $("bars").replaceChildren();
  if (current === null) return say("label-note", "Choose an image to rank its labels.");
  let labels;
  try {
    labels = readLabels();
  } catch (error) {
    return say("label-note", error.message);
  }
  say("label-note", "Reading the labels ...");
  const template = $("template").value;
  const embeds = [];
  for (const label of labels) {
    embeds.push(await textEmbed(template.replaceAll("{}", () => label)));
    await pause();
    if (mine !== ranking) return undefined;
  }
  const shares = probabilities(embeds.map((embed) => cosine(current.embed, embed)));
  const ranked = labels.map((label, place) => ({ label, share: shares[place] })).sort((a, b) => b.share - a.share);
  $("bars").replaceChildren(...ranked.map(barOf));
  const unknown = noteOfUnknown([template.replaceAll("{}", " "), ...labels].join(" "));
  return say("label-note", `Probabilities of these labels; they sum to 100 %.${unknown}`);
}

function make(tag, content = "") {
  const element = document.createElement(tag);
  element.textContent = content;
  return element;
}

function makeNumber(value, text) {
  const number = make("data", text);
  number.value = value;
  return number;
}

function barOf({ label, share }) {
  const [row, bar, fill] = ["li", "span", "i"].map((tag) => make(tag));
  bar.className = "bar";
  fill.style.width = `${100 * share}%`;
  bar.append(fill);
  row.append(make("span", label), bar, makeNumber(share, `${(100 * share).toFixed(1)} %`));
  return row;
}

function show(entry) {
  current = entry;
  $("shown").hidden = false;
  thumbnail(entry, $("shown"));
  say("shown-name", entry.name);
  return rankLabels();
}

async function addImages(files) {
  for (const [place, file] of files.entries()) {
    say("label-note", `Reading ${file.name} (${place + 1} of ${files.length}) ...`);
    await pause();
    try {
      gallery.unshift({ name: file.name || "pasted image", url: URL.createObjectURL(file), embed: await embedImage(file) });
      current = gallery[0];
    } catch (error) {
      fail(error);
    }
  }
  await (current === null ? rankLabels() : show(current));
  return search();
}

async function search() {
  const query = $("query").value.trim();
  let hits = gallery.map((entry) => ({ entry }));
  if (query) {
    const embed = await textEmbed(query);
    hits = gallery.map((entry) => ({ entry, score: cosine(entry.embed, embed) }));
    hits.sort((a, b) => b.score - a.score);
  }
  $("hits").replaceChildren(...hits.slice(0, MOST_SHOWN).map(hitOf));
  const shown = Math.min(MOST_SHOWN, hits.length);
  say("search-note", hits.length === 0
    ? "No images yet: those that you choose above can be searched here."
    : query
      ? `The ${shown} nearest of ${hits.length} images. The number is the cosine, at most 1.${noteOfUnknown(query)}`
      : `${shown} of ${hits.length} images. Choose one to rank its labels.`);
}

function hitOf({ entry, score }) {
  const [row, button, image, line] = ["li", "button", "img", "span"].map((tag) => make(tag));
  button.type = "button";
  button.title = row.title = entry.name;
  button.onclick = () => then(() => show(entry));
  image.loading = "lazy";
  thumbnail(entry, image);
  button.append(image);
  line.append(make("b", entry.name));
  if (score !== undefined) line.append(makeNumber(score, score.toFixed(3)));
  row.append(button, line);
  return row;
}

function readImages() {
  const { names, embeds, size } = SETTINGS.images;
  const values = new Float32Array(fromBase64(embeds).buffer);
  for (const [place, name] of names.entries()) {
    gallery.push({ name, url: `images/${place}.jpg`, embed: values.subarray(place * size, (place + 1) * size) });
  }
}

function listen() {
  const add = (list) => {
    const files = [...list]; // now: the list is emptied when its event ends
    if (files.length) then(() => addImages(files));
  };
  $("files").onchange = () => { add($("files").files); $("files").value = ""; };
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  }
  for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, () => $("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => { event.preventDefault(); add(event.dataTransfer.files); });
  document.addEventListener("paste", (event) => add(event.clipboardData.files));
  for (const id of ["labels", "template"]) $(id).oninput = () => { ranking++; then(rankLabels); };
  $("search").onsubmit = (event) => { event.preventDefault(); then(search); };
  $("files").disabled = $("search").querySelector("button").disabled = false;
}

async function start() {
  document.title = `${SETTINGS.name} in the browser`;
  say("title", SETTINGS.name);
  $("labels").value = SETTINGS.labels;
  $("template").value = SETTINGS.template;
  readImages();
  if (typeof WebAssembly === "undefined" || typeof DecompressionStream === "undefined") {
    throw new Error("This browser is too old for this page: it has no WebAssembly or DecompressionStream (2023).");
  }
  await loadModel((stage) => say("stage", stage));
  $("loading").hidden = true;
  listen();
  await rankLabels();
  await search();
}

start().catch((error) => { $("loading").hidden = true; fail(error); });
