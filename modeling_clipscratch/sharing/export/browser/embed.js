// Load the model of this folder, and compute embeddings of unit length of texts and image files.
"use strict";

const model = {};

// `report(stage)`: what is being loaded.
async function loadModel(report) {
  const asModule = async (name) =>
    import(URL.createObjectURL(new Blob([await payload(name)], { type: "text/javascript" })));
  const json = async (name) => JSON.parse(new TextDecoder().decode(await payload(name)));
  report("Loading the program ...");
  const { Tokenizer } = await asModule("tokenizers");
  model.tokenizer = new Tokenizer(await json("tokenizer"), await json("tokenizer_config"));
  model.ort = await asModule("onnxruntime");
  // More threads would need headers that only a server can send.
  model.ort.env.wasm.numThreads = 1;
  model.ort.env.wasm.wasmBinary = await payload("wasm");
  for (const side of ["vision", "text"]) {
    report(`Loading the ${side} tower ...`);
    model[side] = await model.ort.InferenceSession.create(await payload(side), { executionProviders: ["wasm"] });
  }
}

// Token numbers of a text. A text that is too long loses its end, but not the special tokens after it.
function tokensOf(tokenizer, text, longest) {
  const all = tokenizer.encode(text).ids;
  if (all.length <= longest) return all;
  const bare = tokenizer.encode(text, { add_special_tokens: false }).ids;
  let before = 0;
  while (!bare.every((id, place) => all[before + place] === id)) before++;
  const after = all.slice(before + bare.length);
  return [...all.slice(0, longest - after.length), ...after];
}

// Words that the tokenizer maps to its token for unknown words.
function unknownWords(text) {
  const words = new Set(text.match(/[\p{L}\p{N}_][\p{L}\p{N}_'-]*/gu) ?? []);
  const ids = (word) => model.tokenizer.encode(word, { add_special_tokens: false }).ids;
  return [...words].filter((word) => ids(word).includes(SETTINGS.unknown_token));
}

async function embedText(text) {
  const ids = BigInt64Array.from(tokensOf(model.tokenizer, text, SETTINGS.max_length), BigInt);
  const shape = [1, ids.length];
  const output = await model.text.run({
    input_ids: new model.ort.Tensor("int64", ids, shape),
    attention_mask: new model.ort.Tensor("int64", new BigInt64Array(ids.length).fill(1n), shape),
  });
  return output.text_embeds.data;
}

async function embedImage(file) {
  const image = fit(await decode(file), SETTINGS.preprocess);
  const shape = [1, 3, image.height, image.width];
  const values = normalise(image, SETTINGS.preprocess);
  return (await model.vision.run({ pixel_values: new model.ort.Tensor("float32", values, shape) })).image_embeds.data;
}

function cosine(left, right) {
  let sum = 0;
  for (let place = 0; place < left.length; place++) sum += left[place] * right[place];
  return sum;
}

// Cosines -> probabilities at the model's temperature.
function probabilities(cosines) {
  const most = Math.max(...cosines);
  const weights = cosines.map((score) => Math.exp(Math.exp(SETTINGS.logit_scale) * (score - most)));
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return weights.map((weight) => weight / sum);
}
