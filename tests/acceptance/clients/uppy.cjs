// Uppy with @uppy/tus in a page of Chromium, served from an origin of its own. Each line of JSON on stdin is an upload
// to do; each event is a line on stdout.
//   ask: {clients, chromium};  a line: {name, file, options, remove: whether to remove it once bytes have gone}
"use strict";
const fs = require("node:fs");
const http = require("node:http");
const readline = require("node:readline");
const { createRequire } = require("node:module");

const ask = JSON.parse(process.argv[2]);
const client = createRequire(`${ask.clients}/package.json`);
const { chromium } = client("playwright-core");
const say = (what) => fs.writeSync(1, `${JSON.stringify(what)}\n`);

const PAGE = `<!doctype html><meta charset="utf-8"><title>Uploads</title><script type="module">
  import * as bundle from "/uppy.mjs";
  window.run = async ({ name, options, remove }) => {
    const data = await (await fetch("/file")).blob();
    const uppy = new bundle.Uppy({ autoProceed: false }).use(bundle.Tus, {
      ...options, onShouldRetry: () => { window.said({ event: "retry", name }); return true; },
    });
    let removed = false;
    uppy.on("upload-progress", (file, progress) => {
      const url = uppy.getFile(file.id)?.tus?.uploadUrl;
      if (remove && url && progress.bytesUploaded && !removed) {
        removed = true;
        uppy.removeFile(file.id);
        window.said({ event: "removed", name, url });
      }
    });
    uppy.addFile({ name: name + ".bin", type: "application/x-test", data });
    const result = await uppy.upload();
    const [done] = result?.successful ?? [];
    if (!remove) window.said({ event: "done", name, url: done?.uploadURL, failed: result.failed.map((f) => f.error) });
  };
  window.said({ event: "ready" });
</script>`;

let file = "";
const server = http.createServer((request, response) => {
  const [type, body] = {
    "/": ["text/html", PAGE],
    "/uppy.mjs": ["text/javascript", () => fs.readFileSync(`${ask.clients}/node_modules/uppy/dist/uppy.min.mjs`)],
    "/file": ["application/octet-stream", () => fs.readFileSync(file)],
  }[request.url] ?? ["text/plain", ""];
  response.writeHead(200, { "content-type": type });
  response.end(typeof body === "function" ? body() : body);
});

(async () => {
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const base = `http://127.0.0.1:${server.address().port}`;
  const browser = await chromium.launch({ executablePath: ask.chromium, args: ["--no-sandbox"] });
  const page = await browser.newPage();
  page.on("pageerror", (error) => say({ event: "pageerror", message: String(error) }));
  await page.exposeFunction("said", say);
  say({ event: "origin", origin: base });
  await page.goto(base);
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const upload = JSON.parse(line);
    file = upload.file;
    await page.evaluate((it) => window.run(it), upload);
  }
  await browser.close();
  server.close();
})();
