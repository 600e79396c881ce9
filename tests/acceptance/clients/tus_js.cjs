// One upload by tus-js-client, as `ask` says; each event is a line of JSON.
//   ask: {module, file, options, source: "file" | "stream", stop: "abort" | "terminate" | null, urls: a file to keep URLs in}
"use strict";
const fs = require("node:fs");
const { PassThrough } = require("node:stream");
const { createRequire } = require("node:module");

const ask = JSON.parse(process.argv[2]);
const client = createRequire(`${ask.clients}/package.json`);
const say = (what) => fs.writeSync(1, `${JSON.stringify(what)}\n`);

async function urlStorage(tus) {
  if (!ask.urls) return {};
  const FileUrlStorage = tus.FileUrlStorage ?? client(`${ask.module}/node/FileUrlStorage`).FileUrlStorage;
  return { urlStorage: new FileUrlStorage(ask.urls) };
}

(async () => {
  const tus = client(ask.module);
  const file = fs.createReadStream(ask.file);
  const source = ask.source === "stream" ? file.pipe(new PassThrough()) : file;
  let stopped = false;
  const upload = new tus.Upload(source, {
    ...(await urlStorage(tus)),
    ...ask.options,
    onUploadUrlAvailable: () => say({ event: "url", url: upload.url }),
    onChunkComplete: async (size, accepted) => {
      say({ event: "chunk", accepted });
      if (ask.stop && !stopped) {
        stopped = true;
        await upload.abort(ask.stop === "terminate");
        say({ event: "stopped", url: upload.url });
        process.exit(0);
      }
    },
    onShouldRetry: () => {
      say({ event: "retry" });
      return true;
    },
    onSuccess: () => say({ event: "success", url: upload.url }),
    onError: (error) => {
      say({ event: "error", message: String(error) });
      process.exit(1);
    },
  });
  if (ask.urls) {
    const previous = await upload.findPreviousUploads();
    say({ event: "previous", count: previous.length });
    if (previous.length) upload.resumeFromPreviousUpload(previous[0]);
  }
  upload.start();
})();
