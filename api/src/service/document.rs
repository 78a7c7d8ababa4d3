//! What of the OpenAPI document no route says.

use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, ContentBuilder, Info, License, OpenApi, OpenApiBuilder, Paths, Ref, ResponseBuilder,
};

const DESCRIPTION: &str = "\
Renders videos from pictures. Errors are `application/problem+json` (RFC 9457) with a stable `code`; what is somebody \
else's is 404. Lists go on by `cursor`. `/openai/v1` speaks the OpenAI videos API, its errors included.";

const TAGS: [(&str, &str); 11] = [
    ("auth", "Sign-up, login, refresh, logout"),
    ("account", "The own account and its API keys"),
    ("credits", "What renders are paid with"),
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

/// Adds what layers answer on behalf of every route, so that no route has to say it: too many requests and parts that are away
/// where a caller must be known, and refused bodies where there is one.
pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        let (content_type, schema) = if path.starts_with("/openai/") {
            ("application/json", "ErrorBody")
        } else {
            ("application/problem+json", "Problem")
        };
        for operation in operations(item) {
            let mut statuses = Vec::new();
            if operation.security.is_some() {
                statuses.extend(["429", "503"]);
            }
            if operation.request_body.is_some() {
                statuses.extend(["400", "413", "415", "422"]);
            }
            for status in statuses {
                let body = ContentBuilder::new()
                    .schema(Some(Ref::from_schema_name(schema)))
                    .build();
                let response = ResponseBuilder::new().content(content_type, body).build();
                let responses = &mut operation.responses.responses;
                responses
                    .entry(status.to_owned())
                    .or_insert_with(|| response.into());
            }
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem {
        get,
        put,
        post,
        delete,
        patch,
        ..
    } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}
