// Read large files of this folder. A page opened as a file may not fetch any, but may add scripts; so each file is a few
// scripts that hold pieces of its gzip in base64.
"use strict";

const pieces = {};

// Each piece calls this.
function received(name, place, text) {
  (pieces[name] ??= [])[place] = fromBase64(text);
}

function fromBase64(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let place = 0; place < bytes.length; place++) bytes[place] = characters.charCodeAt(place);
  return bytes;
}

function addScript(path) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = path;
    script.onload = () => { script.remove(); resolve(); };
    script.onerror = () => reject(new Error(`${path} is missing beside this page; copy the whole folder again.`));
    document.head.append(script);
  });
}

// SETTINGS.payload: name -> number of pieces.
async function payload(name) {
  for (let place = 0; place < SETTINGS.payload[name]; place++) await addScript(`payload/${name}-${place}.js`);
  const packed = new Blob(pieces[name]).stream().pipeThrough(new DecompressionStream("gzip"));
  delete pieces[name];
  return new Uint8Array(await new Response(packed).arrayBuffer());
}
