// Frames get the height that their pages tell and the theme of this page; a button opens all answers of a lesson.
const theme = () => document.documentElement.dataset.theme ?? "light";
const tell = (frame) => frame.contentWindow?.postMessage({ theme: theme() }, "*");

addEventListener("message", ({ source, data }) => {
  const frame = [...document.querySelectorAll("iframe.widget")].find((one) => one.contentWindow === source);
  if (!frame) return;
  if (data.height > 100) frame.style.height = `${data.height + 2}px`;
  tell(frame);
});

// curves are drawn before the contents of the page stand beside them and take their room
addEventListener("load", () => dispatchEvent(new Event("resize")));

addEventListener("DOMContentLoaded", () => {
  new MutationObserver(() => document.querySelectorAll("iframe.widget").forEach(tell)).observe(
    document.documentElement, { attributeFilter: ["data-theme"] });
  const button = document.querySelector(".show-all");
  if (!button) return;
  const all = [...document.querySelectorAll("article details")];
  button.hidden = !all.length;
  button.addEventListener("click", () => {
    const open = all.some((one) => !one.open);
    for (const one of all) one.open = open;
    button.textContent = `${open ? "Hide" : "Show"} all answers and outputs`;
  });
});
