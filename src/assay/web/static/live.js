"use strict";
// The live page: parts come as HTML by server-sent events, and take the place of the old ones. The server comes back by itself.
document.addEventListener("DOMContentLoaded", () => {
  const board = document.getElementById("board");
  const stream = document.getElementById("stream");
  let source = null, again = 0;

  const say = (text, live) => {
    if (stream.textContent !== text) stream.textContent = text;
    board.dataset.live = live ? "yes" : "no";
  };

  function connect() {
    source = new EventSource(board.dataset.events);
    source.onopen = () => say("Live", true);
    source.onmessage = (event) => take(JSON.parse(event.data));
    source.onerror = () => {   // our own wait: the browser's is longer, and it gives up on an answer that is no stream
      say("Connection lost; what is shown may be old. Trying again.", false);
      source.close();
      clearTimeout(again);
      again = setTimeout(connect, 500);
    };
  }

  function take({ parts, order }) {
    for (const [id, html] of Object.entries(parts)) {
      let part = document.getElementById(id);
      if (!part) {
        part = Object.assign(document.createElement("section"), { id, className: "part" });
        board.append(part);
      }
      const was = new Map([...part.querySelectorAll("details[id]")].map((d) => [d.id, d.open]));
      const focused = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") || document.activeElement.closest("[id]")?.id : null;
      part.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
      for (const item of part.querySelectorAll("details[id]")) if (was.has(item.id)) item.open = was.get(item.id);
      if (focused) (part.querySelector(`[href="${CSS.escape(focused)}"]`) || document.getElementById(focused)?.querySelector("summary"))?.focus({ preventScroll: true });
    }
    for (const part of board.querySelectorAll(".part")) if (!order.includes(part.id)) part.remove();
    order.forEach((id, n) => {
      const part = document.getElementById(id), there = board.querySelectorAll(".part")[n];
      if (part !== there) there.before(part);
    });
    board.dataset.taken = String(Number(board.dataset.taken || 0) + 1);
  }

  connect();
  addEventListener("pagehide", () => { source.close(); clearTimeout(again); });
  addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
});
