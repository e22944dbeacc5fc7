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
      let before = Promise.resolve();   // one after the other, as in a worker
      inside.importScripts = (...urls) => { before = urls.reduce((then, src) => then.then(() => run(src)), before); return before; };
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.inside = run(new URL(url, location)).then(() => inside);   // what is said before is heard then
    }

    postMessage(data) {
      this.inside.then((inside) => inside.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
