() => {
  // The tab on show: its Run and Stop belong to the keyboard.
  const room = () => [...document.querySelectorAll(".room")].find((part) => part.offsetParent !== null);
  const press = (selector) => {
    const button = room()?.querySelector(selector);
    if (button && !button.disabled) button.click();
  };

  // Before and after: Space flips, so that the eye can compare one place.
  const flip = (view) => {
    const modes = [...view.querySelectorAll(".modes input")];
    const now = modes.find((mode) => mode.checked)?.value;
    const next = modes.find((mode) => mode.value === (now === "before" ? "after" : "before"));
    if (next) next.checked = true;
  };

  // An open list, or a picture over all the page, takes Escape for itself and does not say so: looked for in time.
  const OPEN = '[role="combobox"][aria-expanded="true"], .block.fullscreen';
  let open = false;
  document.addEventListener("keydown", () => (open = document.querySelector(OPEN) !== null), true);

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented) return; // a word in the making, or somebody else's key
    const runs = event.key === "Enter" && (event.ctrlKey || event.metaKey);
    const flips = event.key === " " && event.target.matches?.(".divider");
    if (runs || flips) event.preventDefault();
    if (event.repeat) return; // a key that is held down counts once
    if (runs) press("button.run");
    else if (flips) flip(event.target.closest(".view"));
    else if (event.key === "Escape" && !open) press("button.stop");
  });

  document.addEventListener("input", (event) => {
    const view = event.target.closest?.(".view");
    if (!view || !event.target.matches(".divider")) return;
    view.style.setProperty("--at", event.target.value);
    const split = view.querySelector('.modes input[value="split"]');
    if (split) split.checked = true;
  });

  // On a narrow page the result lies below the controls: go there when the work begins.
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("button.run") && window.innerWidth < 900) {
      setTimeout(() => room()?.querySelector(".result")?.scrollIntoView({ block: "start" }), 300);
    }
  });

  // A link that fills the form, into the clipboard; where a page may not write there, by selecting.
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const field = document.body.appendChild(document.createElement("textarea"));
      field.value = text;
      field.select();
      document.execCommand("copy");
      field.remove();
    }
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button || button.dataset.words) return;
    await copy(location.origin + location.pathname + button.dataset.copy);
    button.dataset.words = button.textContent;
    button.textContent = button.dataset.done;
    button.setAttribute("aria-live", "polite");
    setTimeout(() => {
      button.textContent = button.dataset.words;
      delete button.dataset.words;
    }, 2000);
  });
  // A link has done its work once something runs; a reload then shows that, and not the link's settings again.
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("button.run") && location.search) history.replaceState(null, "", location.pathname);
  });

  // The tab on show stays the same after a reload; a link's tab goes before it.
  const TAB = "rpiae.tab";
  let chosen = false; // by a person, before the tab of last time could be opened: then it stays closed
  document.addEventListener("click", (event) => {
    const id = event.target.closest?.('[role="tab"]')?.dataset.tabId;
    if (!id) return;
    localStorage.setItem(TAB, id);
    chosen ||= event.isTrusted;
  });
  const last = new URLSearchParams(location.search).get("tab") || localStorage.getItem(TAB);
  const reopen = (until) => {
    const tab = document.querySelector(`[role="tab"][data-tab-id="${CSS.escape(last)}"]`);
    if (chosen) return;
    if (tab) tab.click();
    else if (performance.now() < until) setTimeout(reopen, 50, until);
  };
  if (last) reopen(60000); // a slow machine takes its time to build the page

  // The other language: the server speaks the one that the cookie names.
  document.addEventListener("click", (event) => {
    const code = event.target.closest?.("[data-language]")?.dataset.language;
    if (!code) return;
    document.cookie = `rpiae_language=${code}; path=/; max-age=31536000; SameSite=Lax`;
    location.reload();
  });

  // How far the work is, in the title of the browser's tab.
  const title = document.title;
  setInterval(() => {
    const percent = room()?.querySelector("[data-percent]")?.dataset.percent;
    const wanted = percent ? `${percent} % · ${title}` : title;
    if (document.title !== wanted) document.title = wanted;
    // Which language this is, for browsers and screen readers; the page is built bit by bit, so it is asked again.
    const spoken = document.querySelector("[data-now]")?.dataset.now;
    if (spoken && document.documentElement.lang !== spoken) document.documentElement.lang = spoken;
  }, 500);
}
