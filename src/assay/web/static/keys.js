"use strict";
// What the page adds where scripts run: keys, saving while one types, the time that was looked, dark or light. All of it is optional.
(() => {
  const root = document.documentElement;
  const kept = (name, value) => {
    try {
      if (value === undefined) return localStorage.getItem(name);
      localStorage.setItem(name, value);
    } catch { /* storage may be forbidden; then choices last for one page */ }
    return value ?? null;
  };
  const theme = kept("assay-theme");
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button.hidden = false;
    button.addEventListener("click", () => {
      const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = kept("assay-theme", dark ? "light" : "dark");
    });
    keys();
    const form = document.getElementById("task");
    if (form) task(form);
  });

  function typing(target) {
    return target.closest("textarea, select, input:not([type=checkbox], [type=radio], [type=submit]), [contenteditable]") !== null;
  }

  function keys() {
    const help = document.getElementById("help");
    const on = document.getElementById("keys-on");
    if (on) {
      on.checked = kept("assay-keys") !== "off";
      on.addEventListener("change", () => { kept("assay-keys", on.checked ? "on" : "off"); mark(); });
    }
    const active = () => kept("assay-keys") !== "off";
    const mark = () => document.body.classList.toggle("keys", active());
    mark();
    if (help) fill(help);
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && typing(event.target)) { event.target.blur(); return; }
      if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.repeat) return;
      if (typing(event.target) || (help && help.open)) return;
      if (!active() && event.key !== "?") return;
      if (event.key === "m") { document.getElementById("theme").click(); return; }
      const target = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
      if (!target) return;
      event.preventDefault();
      if (target.matches("textarea")) target.focus();
      else if (target.matches("summary")) {
        target.parentElement.open = !target.parentElement.open;
        const field = target.parentElement.querySelector("textarea, select");
        if (target.parentElement.open) (field || target).focus();
      } else target.click();
    });
  }

  function fill(help) {
    const rows = document.getElementById("help-rows");
    const add = (key, text) => {
      const row = rows.insertRow();
      row.insertCell().append(Object.assign(document.createElement("kbd"), { textContent: key }));
      row.insertCell().textContent = text;
    };
    for (const item of document.querySelectorAll("[data-key]")) {
      const label = item.matches("textarea") ? `${item.labels[0].textContent}: write` : item.textContent;
      add(item.dataset.key, label.trim().replace(/\s+/g, " "));
    }
    add("m", "Dark or light");
    const button = document.getElementById("help-button");
    button.hidden = false;
    button.addEventListener("click", () => help.showModal());
    document.getElementById("help-close").addEventListener("click", () => help.close());
  }

  function task(form) {
    // Seconds in which the page was visible; reloads of the same pair go on from where they were.
    const name = `assay-seconds-${form.elements.submission.value}`;
    let seconds = Number(sessionStorage.getItem(name)) || 0;
    let last = performance.now();
    const tick = () => {
      const now = performance.now();
      if (document.visibilityState === "visible") seconds += Math.min(5, (now - last) / 1000);
      last = now;
      sessionStorage.setItem(name, String(seconds));
      form.elements.seconds.value = seconds.toFixed(1);
    };
    setInterval(tick, 1000);
    form.addEventListener("submit", tick);

    const saved = document.getElementById("saved");
    const send = (more) => {
      const body = new FormData(form);
      for (const [key, value] of Object.entries(more)) body.set(key, value);
      return fetch("/task", { method: "POST", body: new URLSearchParams(body), headers: { "x-assay": "quiet" }, keepalive: true });
    };
    let timer = 0;
    let sending = false;
    form.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(async () => {
        if (sending) return;
        const done = await send({ do: "draft" }).catch(() => null);
        saved.textContent = done && done.ok ? "Saved." : "Not saved: is the server there? What you typed is still here.";
      }, 800);
    });
    let sent = false;
    form.addEventListener("submit", (event) => {
      if (sent) event.preventDefault();   // a second press before the next page is there
      sent = sending = true;
      clearTimeout(timer);
    });
    addEventListener("pageshow", () => { sent = sending = false; });
    for (const item of form.querySelectorAll("details[data-tool]")) {
      item.addEventListener("toggle", () => { if (item.open) send({ do: "opened", tool: item.dataset.tool }); }, { once: true });
    }
    for (const item of form.querySelectorAll("a[data-tool]")) {
      item.addEventListener("click", () => send({ do: "opened", tool: item.dataset.tool }));
    }
    if (document.getElementById("problem")) form.elements.reason.focus();
  }
})();
