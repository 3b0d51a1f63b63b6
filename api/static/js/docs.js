/* Swagger UI on the shop's own OpenAPI document. */
window.addEventListener("load", () => {
  window.SwaggerUIBundle({
    url: document.body.dataset.openapi,
    dom_id: "#swagger",
    deepLinking: true,
    // An index of the nouns first: all operations at once take seconds to lay out, and of more
    // than a hundred Swagger UI draws only those in view.
    docExpansion: "none",
    defaultModelsExpandDepth: 0,
    filter: true,
    validatorUrl: null,
    presets: [window.SwaggerUIBundle.presets.apis],
  });
});
