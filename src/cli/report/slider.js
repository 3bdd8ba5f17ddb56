const compare = document.querySelector(".compare");
const range = compare.querySelector("input");
const show = () => compare.style.setProperty("--at", range.value + "%");
range.addEventListener("input", show);
show();
const outline = document.getElementById("show-outline");
outline.addEventListener("change", () => compare.classList.toggle("bare", !outline.checked));
