//! What of the OpenAPI document no route says.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, tag::TagBuilder};
use utoipa::openapi::{Info, License, OpenApi, OpenApiBuilder, Paths};

const DESCRIPTION: &str = "\
Renders videos from pictures. Errors are `application/problem+json` (RFC 9457) with a stable `code`; what is somebody \
else's is 404. Lists go on by `cursor`. `/openai/v1` speaks the OpenAI videos API, its errors included.";

const TAGS: [(&str, &str); 10] = [
    ("auth", "Sign-up, login, refresh, logout"),
    ("account", "The own account and its API keys"),
    ("uploads", "Pictures and adapter files"),
    ("adapters", "LoRA files that fit a model"),
    ("models", "What the farm offers"),
    ("videos", "Renders"),
    ("events", "Live updates"),
    ("farm", "For operators"),
    ("openai", "The OpenAI videos API"),
    ("service", "Health and version"),
];

/// Title, tags and the way to show a credential.
pub(super) fn frame() -> OpenApi {
    let mut info = Info::new("FlowAI", env!("CARGO_PKG_VERSION"));
    info.description = Some(DESCRIPTION.to_owned());
    let mut license = License::new("Apache-2.0");
    license.identifier = Some("Apache-2.0".to_owned());
    info.license = Some(license);
    let mut components = Components::new();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An access token of a login, or an API key (`flk_…`)."))
        .build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let tags = TAGS.map(|(name, description)| {
        TagBuilder::new()
            .name(name)
            .description(Some(description))
            .build()
    });
    OpenApiBuilder::new()
        .info(info)
        .paths(Paths::new())
        .components(Some(components))
        .tags(Some(tags))
        .build()
}
