"use strict";
// Where the site is opened as files, browsers start no worker, and the theme's search is one. This stands in for it: a frame that
// runs the worker's script. The theme looks for the name IFrameWorker in the page around it.
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = Object.assign(document.createElement("iframe"), { hidden: true });
      document.body.append(frame);
      const inside = frame.contentWindow, page = frame.contentDocument;
      const run = (src) => new Promise((done, failed) => {
        page.body.append(Object.assign(page.createElement("script"), { src, onload: done, onerror: failed }));
      });
      inside.importScripts = (...urls) => urls.reduce((before, src) => before.then(() => run(src)), Promise.resolve());
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.inside = run(new URL(url, location)).then(() => inside);   // what is said before is heard then
    }

    postMessage(data) {
      this.inside.then((inside) => inside.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
