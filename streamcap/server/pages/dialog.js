// A dialog whose form calls `act` with its fields and shows its error. Returns a function that opens it with given fields
// and an optional message.
export function dialog(element, act) {
  const wrong = element.querySelector(".wrong");
  const form = element.querySelector("form");
  element.querySelector("[value=cancel]").addEventListener("click", () => element.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = element.querySelector("button.main");
    wrong.textContent = "";
    button.disabled = true;
    try {
      await act(Object.fromEntries(new FormData(form)));
      form.reset();
      element.close();
    } catch (error) {
      wrong.textContent = error.message;
    } finally {
      button.disabled = false;
    }
  });
  return (fields = {}, message = "") => {
    for (const [name, value] of Object.entries(fields)) form.elements[name].value = value;
    wrong.textContent = message;
    if (!element.open) element.showModal();
  };
}
