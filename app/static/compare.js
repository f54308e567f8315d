() => {
  // One place, enlarged in all pictures of a comparison alike: --x and --y in percent, --zoom times.
  const set = (compare, name, value) => compare.style.setProperty(`--${name}`, value);
  const get = (compare, name) => Number(compare.style.getPropertyValue(`--${name}`));
  const within = (value, low, high) => Math.min(high, Math.max(low, value));

  const look = (compare, x, y) => {
    set(compare, "x", within(x, 0, 100).toFixed(2));
    set(compare, "y", within(y, 0, 100).toFixed(2));
  };

  const magnify = (compare, zoom) => {
    const range = compare.querySelector(".zoom-range");
    range.value = zoom;
    set(compare, "zoom", range.value);
    const words = range.closest(".zoom").querySelector("span");
    words.textContent = words.textContent.replace(/\d+/, range.value);
  };

  const point = (event) => {
    const tile = event.target.closest?.(".compare .tile");
    if (!tile) return;
    const box = tile.getBoundingClientRect();
    const x = (100 * (event.clientX - box.left)) / box.width;
    const y = (100 * (event.clientY - box.top)) / box.height;
    look(tile.closest(".compare"), x, y);
    // A finger hovers over nothing: the lens is there for what has the focus.
    if (event.type === "pointerdown") tile.closest(".tiles").focus({ preventScroll: true });
  };
  document.addEventListener("pointermove", point);
  document.addEventListener("pointerdown", point);

  const STEP = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  document.addEventListener("keydown", (event) => {
    if (!event.target.matches?.(".compare .tiles") || event.ctrlKey || event.metaKey || event.altKey) return;
    const compare = event.target.closest(".compare");
    if (event.key in STEP) {
      const [x, y] = STEP[event.key].map((way) => way * (event.shiftKey ? 10 : 2));
      look(compare, get(compare, "x") + x, get(compare, "y") + y);
    } else if (["+", "=", "-"].includes(event.key)) {
      magnify(compare, get(compare, "zoom") + (event.key === "-" ? -1 : 1));
    } else {
      return;
    }
    event.preventDefault();
    const said = compare.querySelector("[data-place]");
    said.textContent = said.dataset.place
      .replace("{x}", Math.round(get(compare, "x")))
      .replace("{y}", Math.round(get(compare, "y")))
      .replace("{zoom}", get(compare, "zoom"));
  });

  document.addEventListener("input", (event) => {
    const compare = event.target.closest?.(".compare");
    if (!compare) return;
    if (event.target.matches(".zoom-range")) {
      magnify(compare, event.target.value);
    } else if (event.target.matches(".gain-range")) {
      set(compare, "gain", event.target.value);
      const words = event.target.closest(".gain").querySelector("span");
      words.textContent = words.textContent.replace(/\d+/, event.target.value);
      const scale = compare.querySelector("[data-scale]");
      scale.textContent = scale.dataset.scale.replace("{levels}", Math.round(255 / event.target.value));
    }
  });

  // Any two behind the divider.
  document.addEventListener("change", (event) => {
    if (event.target.matches?.(".compare .pick")) {
      const { side } = event.target.dataset;
      const panel = event.target.closest(".panel");
      const label = event.target.selectedOptions[0].textContent;
      const image = panel.querySelector(`img.${side}`);
      image.src = event.target.value;
      image.alt = label;
      panel.querySelector(side === "before" ? ".tag.left" : ".tag.right").textContent = label;
      panel.querySelector(`.modes input[value="${side}"] + span`).textContent = label;
    } else if (event.target.matches?.('.compare .view-choice[value="blind"]')) {
      const panel = event.target.closest(".compare").querySelector(".blind");
      if (!panel.dataset.pair) ask(panel, 0);
    }
  });

  // Two without their names. What was chosen, and how often each won, stays in this browser.
  const KEPT = "rpiae.blind.v1";
  const JOBS = 200; // whose choices are kept; the tally goes on
  const read = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(KEPT)) || {};
      return { votes: kept.votes || {}, tally: kept.tally || {} };
    } catch {
      return { votes: {}, tally: {} };
    }
  };
  const write = (kept) => {
    const jobs = Object.keys(kept.votes);
    for (const job of jobs.slice(0, Math.max(0, jobs.length - JOBS))) delete kept.votes[job];
    try {
      localStorage.setItem(KEPT, JSON.stringify(kept));
    } catch {
      // a browser that keeps nothing still shows the answer
    }
  };
  const filled = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

  const pairs = (panel) => {
    const options = JSON.parse(panel.dataset.options).sort((one, other) => (one.name < other.name ? -1 : 1));
    const all = options.flatMap((one, at) => options.slice(at + 1).map((other) => [one, other]));
    return all.map((pair) => ({ key: pair.map((one) => one.name).join("|"), pair }));
  };

  const draw = (panel, letter, src) => {
    const image = new Image();
    image.onload = () => {
      for (const canvas of panel.querySelectorAll(`[data-drawn="${letter}"]`)) {
        const brush = canvas.getContext("2d");
        brush.imageSmoothingEnabled = false;
        brush.drawImage(image, 0, 0, canvas.width, canvas.height);
        canvas.dataset.ready = letter;
      }
    };
    image.src = src;
  };

  // Puts a pair on show: one without a choice if there is any, in random order.
  const ask = (panel, skip) => {
    const votes = read().votes[panel.dataset.job] || {};
    const all = pairs(panel);
    const open = all.filter(({ key }) => !votes[key]);
    const { key, pair } = open.length ? open[Math.floor(Math.random() * open.length)] : all[skip % all.length];
    const [a, b] = Math.random() < 0.5 ? pair : [...pair].reverse();
    panel.dataset.pair = key;
    panel.dataset.at = skip;
    panel.shown = { a, b };
    draw(panel, "a", a.src);
    draw(panel, "b", b.src);
    show(panel);
  };

  const show = (panel) => {
    const kept = read();
    const votes = kept.votes[panel.dataset.job] || {};
    const words = JSON.parse(panel.dataset.words);
    const { a, b } = panel.shown;
    const vote = votes[panel.dataset.pair];
    const all = pairs(panel);
    for (const [letter, one] of [["a", a], ["b", b]]) {
      const caption = panel.querySelector(`[data-named="${letter}"]`);
      const canvas = panel.querySelector(`canvas[data-drawn="${letter}"]`);
      caption.dataset.plain ||= caption.textContent;
      caption.textContent = caption.dataset.plain + (vote ? `: ${one.label}` : "");
      caption.classList.toggle("chosen", vote === one.name);
      canvas.setAttribute("aria-label", caption.textContent);
    }
    for (const button of panel.querySelectorAll("[data-vote]")) button.hidden = Boolean(vote);
    const left = all.filter(({ key }) => !votes[key]).length;
    const next = panel.querySelector("[data-next]");
    next.hidden = !vote || all.length < 2;
    let said = "";
    if (vote) {
      const chosen = [a, b].find((one) => one.name === vote);
      said = filled(words.revealed, { a: a.label, b: b.label });
      said += ` ${chosen ? filled(words.chose, { label: chosen.label }) : words.none}`;
      if (!left && all.length > 1) said += ` ${words.all}`;
    }
    panel.querySelector(".verdict").textContent = said;
    count(panel, kept.tally, words);
  };

  const count = (panel, tally, words) => {
    const box = panel.querySelector(".tally");
    const list = box.querySelector("ul");
    const won = Object.values(tally);
    // A tally that can be seen before a choice would say which one usually wins.
    box.hidden = !won.length || !panel.querySelector("[data-vote]").hidden;
    list.replaceChildren(
      ...won.map(({ labels, wins, none }) => {
        const line = document.createElement("li");
        const values = { first: labels[0], second: labels[1], wins: wins[0], losses: wins[1] };
        line.textContent = filled(words.pair, values) + (none ? ` ${filled(words.ties, { count: none })}` : "");
        return line;
      }),
    );
  };

  const choose = (panel, letter) => {
    const kept = read();
    const key = panel.dataset.pair;
    const votes = (kept.votes[panel.dataset.job] ||= {});
    if (votes[key]) return; // one choice for a picture
    const { pair } = pairs(panel).find((one) => one.key === key);
    const chosen = panel.shown[letter];
    votes[key] = chosen ? chosen.name : "none";
    const known = (kept.tally[key] ||= { labels: pair.map((one) => one.label), wins: [0, 0], none: 0 });
    if (chosen) known.wins[pair.findIndex((one) => one.name === chosen.name)] += 1;
    else known.none += 1;
    write(kept);
    show(panel);
  };

  document.addEventListener("click", (event) => {
    const panel = event.target.closest?.(".compare .blind");
    const button = event.target.closest?.("button");
    if (!panel || !button) return;
    if (button.dataset.vote) {
      choose(panel, button.dataset.vote);
      panel.querySelector("[data-next]:not([hidden])")?.focus();
    } else if ("next" in button.dataset) {
      ask(panel, Number(panel.dataset.at) + 1);
    } else if ("forget" in button.dataset) {
      write({ votes: {}, tally: {} });
      ask(panel, 0);
    }
  });
}
