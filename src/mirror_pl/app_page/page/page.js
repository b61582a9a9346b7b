() => {
  // The server forgets a picture once it is answered; to score it again, the browser sends it again.
  let last = null;
  const keep = (event, files) => {
    if (event.target.closest && event.target.closest("#picture") && files && files.length) last = files[0];
  };
  document.addEventListener("change", (event) => keep(event, event.target.files), true);
  document.addEventListener("drop", (event) => keep(event, event.dataTransfer && event.dataTransfer.files), true);
  document.addEventListener("click", (event) => {
    if (!event.target.closest || !event.target.closest("button.again")) return;
    const field = document.querySelector("#picture input[type=file]");
    if (!last || !field) return;
    const held = new DataTransfer();
    held.items.add(last);
    field.files = held.files;
    field.dispatchEvent(new Event("change", { bubbles: true }));
  });
}
