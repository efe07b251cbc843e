(() => {
  "use strict";
  const all = (selector, root) => [...(root || document).querySelectorAll(selector)];
  const get = (id) => document.getElementById(id);
  const data = JSON.parse(get("data").textContent), things = data.things;
  const make = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const space = document.querySelector("svg").namespaceURI;
  const drawing = (id) => {
    const svg = document.createElementNS(space, "svg"), use = document.createElementNS(space, "use");
    svg.setAttribute("aria-hidden", "true");
    use.setAttribute("href", "#" + id);
    svg.append(use);
    return svg;
  };
  // A picture, or a word that it is not in the page.
  const picture = (i, frame) => {
    const shown = things.pic[i] >= 0, box = make("span", "pic " + (frame || ""));
    box.classList.add(shown ? "p" + things.pic[i] : "none");
    if (shown) {
      const image = make("span", "vh");
      image.setAttribute("role", "img");
      image.setAttribute("aria-label", things.name[i]);
      box.append(image);
    } else {
      box.append(drawing("gone"), make("span", "", "not embedded"));
    }
    return box;
  };
  const label = (i) => (things.label[i] < 0 ? "without a label" : data.classes[things.label[i]]);
  const figure = (i, frame, words) => {
    const made = make("figure"), caption = make("figcaption");
    made.title = things.name[i];
    caption.append(make("bdi", "", label(i)), ...words.map((text, n) => make("span", n < words.length - 1 ? "said" : "file", text)));
    made.append(picture(i, frame), caption);
    return made;
  };
  const file = (i) => things.name[i].split("/").pop();
  const many = (n, one, more) => n.toLocaleString("en") + " " + (n === 1 ? one : more);
  const per = (share) => (100 * share).toFixed(2) + "%";
  // Behind a cell: its queries, the worst first, each with its matches of the cell's class.
  const behind = get("behind");
  const open = (i, j) => {
    const cell = data.cells[i + "," + j];
    if (!cell) return;
    const [queries, matches, shown] = cell, first = data.classes[i], other = data.classes[j];
    get("behind-title").textContent = first + (i === j ? ", right matches" : ": matches of " + other);
    get("behind-line").textContent = many(queries, "query has", "queries have") + " " +
      many(matches, "such match", "such matches") + " among the best. " + (shown.length < queries
      ? "The worst " + shown.length + " of " + queries.toLocaleString("en") + " are shown."
      : queries > 1 ? "All are shown, the worst first." : "");
    get("behind-list").replaceChildren(...shown.map(([query, accuracy, found, list]) => {
      const line = make("li"), row = make("ol");
      row.append(...list.map(([match, rank, score]) => {
        const one = make("li");
        one.append(figure(match, i === j ? "r" : "w", ["match " + rank, "score " + score.toFixed(3), file(match)]));
        return one;
      }));
      if (found > list.length) row.append(make("li", "soft", "and " + (found - list.length) + " more"));
      line.append(figure(query, "", ["query", "accuracy " + per(accuracy), file(query)]), row);
      return line;
    }));
    get("behind-filter").hidden = !own;
    get("behind-filter").onclick = () => { behind.close(); only(i, j); };
    behind.showModal();
    behind.scrollTop = 0;
    get("behind-title").focus();
  };
  get("behind-close").onclick = () => behind.close();
  behind.addEventListener("click", (event) => { if (event.target === behind) behind.close(); });
  for (const cell of all(".pairs .pick")) {
    const button = make("button", "sort plaincell");
    button.type = "button";
    button.append(...cell.childNodes);
    cell.append(button);
    button.onclick = () => open(cell.dataset.i, cell.dataset.j);
  }
  // Queries: shown by their own class and by a class among their matches.
  const queries = all("article");
  const own = get("own"), hit = get("hit"), state = get("state"), clear = get("clear");
  const show = () => {
    let n = 0;
    for (const query of queries) {
      const fits = (!own.value || query.dataset.own === own.value) &&
        (!hit.value || query.dataset.hit.split(" ").includes(hit.value));
      query.hidden = !fits;
      n += fits ? 1 : 0;
    }
    const any = own.value || hit.value;
    clear.hidden = !any;
    state.textContent = any ? n + " of the " + queries.length + " queries on this page fit." : "";
  };
  const only = (row, column) => {
    own.value = row;
    hit.value = column;
    show();
    get("queries").querySelector("h2").focus();
    get("queries").scrollIntoView();
  };
  if (own) {
    get("filter").hidden = false;
    own.onchange = hit.onchange = show;
    clear.onclick = () => { own.value = hit.value = ""; show(); own.focus(); };
    show();
  }
  // Matrix: row heads and cells that hold something become buttons; one tab stop, then the arrows.
  const grid = get("grid");
  if (grid) {
    const at = new Map(), rows = all("tbody tr", grid);
    const heads = all("thead th.c", grid);
    const columns = heads.map((head) => head.dataset.column), names = heads.map((head) => head.title);
    let stop = null;
    const go = (button) => {
      if (stop) stop.tabIndex = -1;
      stop = button;
      stop.tabIndex = 0;
    };
    rows.forEach((row, r) => {
      if (!row.dataset.row) return;
      all(".pick", row).forEach((cell) => {
        const c = cell.dataset.c === undefined ? -1 : Number(cell.dataset.c);
        const button = document.createElement("button");
        button.type = "button";
        button.tabIndex = -1;
        button.append(...cell.childNodes);
        cell.append(button);
        button.dataset.r = r;
        button.dataset.c = c;
        button.title = c < 0 ? "List the queries of this class"
          : "Pictures of " + row.dataset.name + " that have a match of " + names[c];
        button.onclick = () => {
          go(button);
          if (c < 0) only(row.dataset.row, ""); else open(row.dataset.row, columns[c]);
        };
        at.set(r + "," + c, button);
        if (!stop) go(button);
      });
    });
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    grid.addEventListener("keydown", (event) => {
      const step = steps[event.key], from = event.target.closest("button");
      if (!step || !from) return;
      event.preventDefault();
      let r = Number(from.dataset.r), c = Number(from.dataset.c), next;
      do {
        r += step[0];
        c += step[1];
        next = at.get(r + "," + c);
      } while (!next && r >= 0 && r < rows.length && c >= -1 && c < columns.length);
      if (next) { go(next); next.focus(); }
    });
    get("picks").hidden = false;
  }
  // Classes: a click on a head sorts, a second one turns the order.
  for (const table of all("table.sortable")) {
    const heads = all("thead th", table), body = table.tBodies[0];
    heads.forEach((head, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.onclick = () => {
        const first = i ? "descending" : "ascending", second = i ? "ascending" : "descending";
        const order = head.getAttribute("aria-sort") === first ? second : first;
        const sign = order === "ascending" ? 1 : -1;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const value = (row) => row.cells[i].dataset.value;
        body.append(...[...body.rows].sort((a, b) => {
          const x = value(a), y = value(b);
          if (i === 0) return sign * x.localeCompare(y);
          if (!x || !y) return (x ? 0 : 1) - (y ? 0 : 1);
          return sign * (Number(x) - Number(y));
        }));
      };
    });
  }
  if (data.map) drawMap();
  function drawMap() {
    const map = data.map, canvas = get("plot"), total = map.x.length, panel = get("point");
    const idle = [...panel.childNodes], context = canvas.getContext("2d");
    const wide = Math.max(1, ...extremes(map.x)), high = Math.max(1, ...extremes(map.y));
    const colour = new Map(map.coloured.map((one, i) => [one, i]));
    const radius = total < 600 ? 5 : total < 3000 ? 4 : 3;
    let view = { zoom: 1, x: 0, y: 0 }, picked = 0, only = "", held = -1, over = -1, asked = 0;
    function extremes(values) { return [values.reduce((a, b) => Math.max(a, b), 0)]; }
    const size = () => [canvas.clientWidth, canvas.clientHeight];
    const fit = () => {
      const [w, h] = size(), edge = 16;
      const unit = Math.min((w - 2 * edge) / wide, (h - 2 * edge) / high);
      return { unit, left: (w - unit * wide) / 2, top: (h - unit * high) / 2, w, h };
    };
    const place = (f, i) => [
      (f.left + f.unit * map.x[i] - f.w / 2 - view.x) * view.zoom + f.w / 2,
      (f.top + f.unit * map.y[i] - f.h / 2 - view.y) * view.zoom + f.h / 2,
    ];
    const wanted = (i) => (!picked || (map.flags[i] & picked) !== 0) && (only === "" || things.label[i] === Number(only));
    // Shapes, one for each colour: circle, square, triangle, diamond, triangle down, plus, cross, star.
    const shapes = [
      (c, x, y, r) => { c.moveTo(x + r, y); c.arc(x, y, r, 0, 7); },
      (c, x, y, r) => { r *= .9; c.rect(x - r, y - r, 2 * r, 2 * r); },
      (c, x, y, r) => poly(c, x, y, 1.25 * r, 3, -90),
      (c, x, y, r) => poly(c, x, y, 1.25 * r, 4, -90),
      (c, x, y, r) => poly(c, x, y, 1.25 * r, 3, 90),
      (c, x, y, r) => cross(c, x, y, 1.2 * r, 0),
      (c, x, y, r) => cross(c, x, y, 1.2 * r, 45),
      (c, x, y, r) => poly(c, x, y, 1.3 * r, 5, -90, .45),
    ];
    function poly(c, x, y, r, n, turn, inner) {
      const steps = inner ? 2 * n : n;
      for (let s = 0; s < steps; s += 1) {
        const angle = (turn + 360 * s / steps) * Math.PI / 180, far = inner && s % 2 ? r * inner : r;
        c[s ? "lineTo" : "moveTo"](x + far * Math.cos(angle), y + far * Math.sin(angle));
      }
      c.closePath();
    }
    function cross(c, x, y, r, turn) {
      const a = turn * Math.PI / 180, t = r * .34;
      [[-t, -r], [t, -r], [t, -t], [r, -t], [r, t], [t, t], [t, r], [-t, r], [-t, t], [-r, t], [-r, -t], [-t, -t]]
        .forEach(([u, v], s) => c[s ? "lineTo" : "moveTo"](
          x + u * Math.cos(a) - v * Math.sin(a), y + u * Math.sin(a) + v * Math.cos(a)));
      c.closePath();
    }
    const paint = () => {
      asked = 0;
      const f = fit(), dense = window.devicePixelRatio || 1;
      if (!f.w || !f.h) return;
      if (canvas.width !== Math.round(f.w * dense) || canvas.height !== Math.round(f.h * dense)) {
        canvas.width = Math.round(f.w * dense);
        canvas.height = Math.round(f.h * dense);
      }
      const style = getComputedStyle(document.documentElement), ink = (name) => style.getPropertyValue(name);
      context.setTransform(dense, 0, 0, dense, 0, 0);
      context.clearRect(0, 0, f.w, f.h);
      const r = radius * Math.min(2, Math.sqrt(view.zoom)), layers = new Map();
      const whole = !picked && only === "";
      for (let i = 0; i < total; i += 1) {
        const at = place(f, i);
        if (at[0] < -9 || at[1] < -9 || at[0] > f.w + 9 || at[1] > f.h + 9) continue;
        const c = colour.has(things.label[i]) ? colour.get(things.label[i]) : 8;
        // Where they cover each other the classes take turns, so that none is hidden by the last.
        const turn = c === 8 ? 0 : i * 7919 % 16;
        const key = (wanted(i) ? 1000 : 0) + (i < map.base ? 0 : 500) + (c === 8 ? 0 : turn * 10 + 1 + c);
        if (!layers.has(key)) layers.set(key, []);
        layers.get(key).push(at);
      }
      for (const key of [...layers.keys()].sort((a, b) => a - b)) {
        const bright = key >= 1000, query = key % 1000 >= 500, c = key % 500 % 10 - 1;
        context.beginPath();
        for (const [x, y] of layers.get(key)) {
          if (c < 0) shapes[0](context, x, y, r * .8); else shapes[c](context, x, y, bright && !whole ? r * 1.25 : r);
        }
        context.globalAlpha = bright ? (total > 3000 && whole ? .75 : 1) : .18;
        context.fillStyle = c < 0 || !bright ? ink("--rest") : ink("--c" + c);
        context.fill();
        context.globalAlpha = bright ? 1 : .18;
        context.lineWidth = 1;
        context.strokeStyle = ink("--halo");
        if (total < 3000 || bright && !whole) context.stroke();
        if (query) {
          context.beginPath();
          for (const [x, y] of layers.get(key)) shapes[0](context, x, y, r + 3.5);
          context.lineWidth = 1.5;
          context.strokeStyle = ink("--mark");
          context.stroke();
        }
      }
      context.globalAlpha = 1;
      const shown = current();
      if (shown >= 0) {
        const [x, y] = place(f, shown);
        for (const [width, name] of [[6, "--halo"], [2.5, "--mark"]]) {
          context.beginPath();
          shapes[0](context, x, y, r + 7);
          context.lineWidth = width;
          context.strokeStyle = ink(name);
          context.stroke();
        }
      }
    };
    const draw = () => { if (!asked) asked = requestAnimationFrame(paint); };
    const current = () => (over >= 0 ? over : held);
    let told = -2;
    const tell = () => {
      const i = current();
      draw();
      if (i === told) return;
      told = i;
      if (i < 0) { panel.replaceChildren(...idle); return; }
      const lines = [make("p")];
      lines[0].append(make("b", "", label(i)));
      lines.push(make("p", "", things.name[i]));
      lines.push(make("p", "soft", things.row[i] < 0 ? "test picture" : "base picture, row " + things.row[i]));
      if (things.pic[i] < 0) lines.push(make("p", "soft", "This picture is not embedded in the page."));
      if (map.suggested[i] !== undefined) lines.push(make("p", "", "Its label may be wrong: rather " + data.classes[map.suggested[i]] + "."));
      const said = map.picks.filter(([bit]) => bit > 1 && map.flags[i] & bit).map(([, text]) => text);
      if (said.length) lines.push(make("p", "soft", "Among the " + said.join(", ") + "."));
      panel.replaceChildren(picture(i), ...lines);
    };
    const nearest = (x, y) => {
      const f = fit();
      let best = -1, least = 16 * 16;
      for (let i = 0; i < total; i += 1) {
        if (!wanted(i)) continue;
        const at = place(f, i), far = (at[0] - x) ** 2 + (at[1] - y) ** 2;
        if (far < least) { least = far; best = i; }
      }
      return best;
    };
    const into = (i) => {
      const f = fit(), [x, y] = place(f, i);
      if (x < 8 || y < 8 || x > f.w - 8 || y > f.h - 8) {
        view.x = f.left + f.unit * map.x[i] - f.w / 2;
        view.y = f.top + f.unit * map.y[i] - f.h / 2;
      }
    };
    const hold = (i) => { over = -1; held = i; if (i >= 0) into(i); tell(); };
    const step = (by) => {
      const start = held < 0 ? (by > 0 ? -1 : total) : held;
      for (let n = 1; n <= total; n += 1) {
        const i = ((start + by * n) % total + total) % total;
        if (wanted(i)) { hold(i); return; }
      }
    };
    const toward = (dx, dy) => {
      if (held < 0) { step(1); return; }
      const f = fit(), [x, y] = place(f, held);
      let best = -1, least = Infinity;
      for (let i = 0; i < total; i += 1) {
        if (i === held || !wanted(i)) continue;
        const at = place(f, i), u = at[0] - x, v = at[1] - y;
        const along = u * dx + v * dy, aside = Math.abs(u * dy - v * dx);
        if (along <= 0 || aside > along) continue;
        if (along + 2 * aside < least) { least = along + 2 * aside; best = i; }
      }
      if (best >= 0) hold(best);
    };
    const zoom = (by) => {
      const f = fit(), next = Math.min(64, Math.max(1, view.zoom * by));
      const around = current() >= 0 ? place(f, current()) : [f.w / 2, f.h / 2];
      view.x += (around[0] - f.w / 2) * (1 / view.zoom - 1 / next);
      view.y += (around[1] - f.h / 2) * (1 / view.zoom - 1 / next);
      view.zoom = next;
      if (next === 1) view.x = view.y = 0;
      draw();
    };
    const spot = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left - canvas.clientLeft, event.clientY - box.top - canvas.clientTop];
    };
    let drag = null, moved = false;
    canvas.onpointerdown = (event) => { drag = [event.clientX, event.clientY]; moved = false; };
    canvas.onpointermove = (event) => {
      if (drag && event.buttons && view.zoom > 1) {
        const dx = event.clientX - drag[0], dy = event.clientY - drag[1];
        if (moved || Math.hypot(dx, dy) > 4) {
          if (!moved) canvas.setPointerCapture(event.pointerId);
          moved = true;
          canvas.classList.add("moving");
          view.x -= dx / view.zoom;
          view.y -= dy / view.zoom;
          drag = [event.clientX, event.clientY];
          over = -1;
          draw();
        }
        return;
      }
      over = event.pointerType === "touch" ? -1 : nearest(...spot(event));
      tell();
    };
    canvas.onpointerup = (event) => {
      canvas.classList.remove("moving");
      if (!moved) hold(nearest(...spot(event)));
      drag = null;
    };
    canvas.onpointerleave = () => { over = -1; tell(); };
    canvas.onpointercancel = () => { drag = null; canvas.classList.remove("moving"); };
    const keys = {
      ArrowLeft: () => toward(-1, 0), ArrowRight: () => toward(1, 0), ArrowUp: () => toward(0, -1),
      ArrowDown: () => toward(0, 1), n: () => step(1), p: () => step(-1), "+": () => zoom(1.5),
      "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: () => zoom(0), Escape: () => hold(-1),
      Home: () => { held = -1; step(1); }, End: () => { held = -1; step(-1); },
    };
    canvas.onkeydown = (event) => {
      const act = keys[event.key];
      if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      act();
    };
    get("mapback").onclick = () => step(-1);
    get("mapnext").onclick = () => step(1);
    get("mapin").onclick = () => zoom(1.5);
    get("mapout").onclick = () => zoom(1 / 1.5);
    get("mapall").onclick = () => zoom(0);
    get("pickout").onchange = get("mapclass").onchange = () => {
      picked = Number(get("pickout").value);
      only = get("mapclass").value;
      if (held >= 0 && !wanted(held)) hold(-1); else tell();
    };
    const legend = get("legend");
    const entry = (text, i) => {
      const line = make("li"), svg = document.createElementNS(space, "svg");
      const path = document.createElementNS(space, "path");
      const words = [], pen = {
        moveTo: (x, y) => words.push("M" + x + " " + y), lineTo: (x, y) => words.push("L" + x + " " + y),
        closePath: () => words.push("Z"), rect: (x, y, w, h) => words.push("M" + x + " " + y + "h" + w + "v" + h + "h" + -w + "Z"),
        arc: (x, y, r) => words.push("a" + r + " " + r + " 0 1 0 " + -2 * r + " 0a" + r + " " + r + " 0 1 0 " + 2 * r + " 0"),
      };
      shapes[Math.max(0, i)](pen, 8, 8, 5);
      svg.setAttribute("viewBox", "0 0 16 16");
      svg.setAttribute("aria-hidden", "true");
      path.setAttribute("d", words.join(""));
      path.setAttribute("class", i < 0 ? "crest" : "cc" + i);
      svg.append(path);
      line.append(svg, make("bdi", "", text));
      return line;
    };
    legend.append(...map.coloured.map((one, i) => entry(data.classes[one], i)));
    if (map.uncoloured) legend.append(entry(many(map.uncoloured, "other class", "other classes"), -1));
    if (map.unlabelled) legend.append(entry("without a label", -1));
    get("mapbox").hidden = false;
    new ResizeObserver(draw).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    // On paper the colours of light, whatever the screen has.
    const paper = (on) => { document.documentElement.classList.toggle("paper", on); paint(); };
    addEventListener("beforeprint", () => paper(true));
    addEventListener("afterprint", () => paper(false));
    paint();
  }
})();
