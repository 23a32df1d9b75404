// Light or dark: as the system has it, or as the switch says.

/** Shows a theme: "auto", "light" or "dark". */
export function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

/** Whether what is shown is dark. */
export function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme === "dark" || (theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
}
