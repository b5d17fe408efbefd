"use strict";
// Unpacks plotly, draws every figure in the colours of the theme, and redraws when it changes.
(() => {
  const root = document.documentElement;
  const systemDark = window.matchMedia("(prefers-color-scheme: dark)");

  // --- theme ---------------------------------------------------------------------------------

  const stored = () => { try { return localStorage.getItem("fedguard-theme"); } catch { return null; } };
  const store = (theme) => { try { localStorage.setItem("fedguard-theme", theme); } catch { /* private */ } };
  const apply = (theme) => { root.dataset.theme = theme; };
  apply(stored() || (systemDark.matches ? "dark" : "light"));

  document.getElementById("theme").addEventListener("click", () => {
    const theme = root.dataset.theme === "dark" ? "light" : "dark";
    store(theme);
    apply(theme);
    drawAll();
  });
  systemDark.addEventListener("change", (event) => {
    if (stored()) return;
    apply(event.matches ? "dark" : "light");
    drawAll();
  });

  // Replaces "var(--name)" by the theme's value, everywhere in a figure.
  function themed(value, style) {
    if (typeof value === "string") {
      const name = /^var\((--[a-z-]+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => themed(item, style));
    if (value && typeof value === "object" && !ArrayBuffer.isView(value)) {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item, style)]));
    }
    return value;
  }

  // --- the client map ------------------------------------------------------------------------

  // Builds each cell's sign and hover text from its code; sending them would double the page.
  function fillMap(figure) {
    const map = figure.layout.meta && figure.layout.meta.map;
    if (!map) return;
    const cells = figure.data[0];
    const codes = Uint8Array.from(atob(cells.z.bdata), (letter) => letter.charCodeAt(0));
    const rounds = decodeRounds(cells.x);
    const width = rounds.length;
    const rows = (build) => map.labels.map((_, row) =>
      Array.from({ length: width }, (_, column) => build(row, column, codes[row * width + column])));
    if (codes.length > 200000) return;
    cells.text = rows((row, column, code) => map.symbols[code]);
    cells.hovertext = rows((row, column, code) => {
      const reason = map.reasons[row * width + column];
      const words = `client ${map.labels[row]}, round ${rounds[column]}: ${map.words[code]}`;
      return reason ? `${words}<br>${folded(reason)}` : words;
    });
    cells.hovertemplate = "%{hovertext}<extra></extra>";
  }

  function decodeRounds(x) {
    if (Array.isArray(x)) return x;
    const bytes = Uint8Array.from(atob(x.bdata), (letter) => letter.charCodeAt(0));
    const kinds = { i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array };
    return Array.from(new kinds[x.dtype](bytes.buffer));
  }

  const folded = (text) => text.replace(/(.{30,46}?)\s/g, "$1<br>");

  // Writes signs or numbers into a map's cells as long as they fit.
  function labelCells(plot) {
    const size = plot._fullLayout && plot._fullLayout._size;
    plot.data.forEach((trace, index) => {
      if (!size || !trace.meta || !trace.meta.celltext) return;
      const span = (axis) => Math.abs(axis.range[1] - axis.range[0]);
      const width = size.w / span(plot._fullLayout.xaxis);
      const height = size.h / span(plot._fullLayout.yaxis);
      const fits = width >= trace.meta.cellwidth && height >= trace.meta.cellheight;
      const wanted = fits ? trace.meta.celltext : "";
      if ((trace.texttemplate || "") !== wanted) Plotly.restyle(plot, { texttemplate: wanted }, [index]);
    });
  }

  // --- drawing -------------------------------------------------------------------------------

  let ready = false;

  const options = {
    responsive: true,
    displaylogo: false,
    displayModeBar: false,
    showTips: false,
    doubleClick: "reset",
  };

  function draw(plot, source) {
    const figure = themed(JSON.parse(source), getComputedStyle(root));
    fillMap(figure);
    const first = !plot.dataset.drawn;
    if (window.innerWidth < 600) figure.layout.dragmode = false;
    return Plotly.react(plot, figure.data, figure.layout, options).then(() => {
      plot.dataset.drawn = "yes";
      labelCells(plot);
      if (!first) return;
      plot.on("plotly_relayout", () => labelCells(plot));
      plot.on("plotly_autosize", () => labelCells(plot));
    });
  }

  function drawAll() {
    if (!ready) return;
    document.querySelectorAll(".chart").forEach((plot) => {
      // A figure that a menu hides has no width yet; it is drawn when it is chosen.
      if (plot.closest("[hidden]")) return;
      draw(plot, plot.nextElementSibling.textContent).catch((error) => say(plot, error));
    });
  }

  document.querySelectorAll(".chooser select").forEach((menu) => {
    const choose = () => {
      const parts = menu.closest(".chooser").nextElementSibling.children;
      Array.from(parts).forEach((part, place) => { part.hidden = place !== menu.selectedIndex; });
      drawAll();
    };
    menu.addEventListener("change", choose);
    choose();
  });

  function say(plot, error) {
    plot.classList.add("empty");
    plot.style.height = "auto";
    plot.textContent = `This figure could not be drawn: ${error.message || error}`;
  }

  // plotly's script travels compressed: a third of its size, unpacked by the browser itself.
  async function unpack() {
    const packed = document.getElementById("plotly").textContent;
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  unpack().then(() => { ready = true; drawAll(); }).catch((error) => {
    document.querySelectorAll(".chart").forEach((plot) => say(plot, error));
  });
})();
