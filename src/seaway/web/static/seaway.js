// Takes the figures of a fresh page every two seconds; without this file the page reloads itself.
"use strict";

const every = 2000;

async function refresh() {
  const stamp = document.getElementById("stamp");
  try {
    const answer = await fetch(location.pathname, { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    // A reader in the middle of a selection, or with a link in focus, is not disturbed.
    const main = document.querySelector("main");
    if (document.getSelection().isCollapsed && !main.contains(document.activeElement)) {
      main.replaceWith(document.adoptNode(fresh.querySelector("main")));
      document.title = fresh.title;
      stamp.replaceWith(document.adoptNode(fresh.getElementById("stamp")));
    }
    document.body.classList.remove("stale");
  } catch {
    document.body.classList.add("stale");
    stamp.textContent = "The dashboard does not answer; these figures are old.";
  }
  setTimeout(refresh, document.hidden ? every * 5 : every);
}

setTimeout(refresh, every);
