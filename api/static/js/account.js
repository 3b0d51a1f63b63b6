/* The sign-in dialog, shared by both pages. */

import { forget, register, renew, signIn, signedIn, signOut } from "./api.js";
import { byId } from "./dom.js";

/** Wire the dialog; `changed()` runs whenever who is signed in changes. */
export function account(changed) {
  const dialog = byId("sign-in");
  const form = byId("sign-in-form");
  const error = byId("sign-in-error");
  const opener = byId("account");
  const create = byId("create-account");
  const nameField = byId("name-field");

  const show = () => { if (opener) opener.textContent = signedIn() ? "Sign out" : "Sign in"; };

  opener?.addEventListener("click", async () => {
    if (!signedIn()) return dialog.showModal();
    await signOut().catch(() => forget());
    show();
    changed();
  });
  byId("sign-in-cancel")?.addEventListener("click", () => dialog.close());
  create?.addEventListener("change", () => {
    nameField.hidden = !create.checked;
    form.elements.name.required = create.checked;
    form.elements.password.minLength = create.checked ? 10 : 0;
    form.elements.password.autocomplete = create.checked ? "new-password" : "current-password";
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    error.textContent = "";
    const { email, password, name } = form.elements;
    const submit = form.querySelector("[type=submit]");
    submit.disabled = true;
    try {
      if (create?.checked) await register(email.value, password.value, name.value);
      else await signIn(email.value, password.value);
      password.value = "";
      dialog?.close();
      show();
      changed();
    } catch (problem) {
      error.textContent = problem.message;
      password.focus();
    } finally {
      submit.disabled = false;
    }
  });

  return { async restore() {
    await renew();
    show();
    return signedIn();
  } };
}
