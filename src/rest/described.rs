//! Routes that describe themselves: one declaration is the route and its entry in the OpenAPI document, so that none can be
//! served without being told of.

use super::legacy::Failed;
use super::wire::ErrorBody;
use crate::node::Node;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use std::sync::Arc;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, Paths};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ComponentsBuilder, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, InfoBuilder, KnownFormat, OpenApi, RefOr, Required, ResponseBuilder};
use utoipa::{IntoParams, PartialSchema, ToSchema};

/// The name of the token among the ways to say who one is.
const TOKEN: &str = "token";
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";
/// As [`crate::name::BucketName`] wants it.
const BUCKET_NAME: &str = "^[A-Za-z0-9_][A-Za-z0-9._-]*$";

type Schemas = Vec<(String, RefOr<Schema>)>;

/// Routes, and the document of them.
#[derive(Default)]
pub(super) struct Routes {
    router: Router<Arc<Node>>,
    paths: Paths,
    schemas: Schemas,
}

impl Routes {
    pub(super) fn new() -> Routes {
        Routes::default()
    }

    pub(super) fn get<H: Handler<T, Arc<Node>>, T: 'static>(self, path: &str, handler: H, about: About) -> Routes {
        self.add(HttpMethod::Get, path, handler, about)
    }

    pub(super) fn put<H: Handler<T, Arc<Node>>, T: 'static>(self, path: &str, handler: H, about: About) -> Routes {
        self.add(HttpMethod::Put, path, handler, about)
    }

    pub(super) fn post<H: Handler<T, Arc<Node>>, T: 'static>(self, path: &str, handler: H, about: About) -> Routes {
        self.add(HttpMethod::Post, path, handler, about)
    }

    pub(super) fn delete<H: Handler<T, Arc<Node>>, T: 'static>(self, path: &str, handler: H, about: About) -> Routes {
        self.add(HttpMethod::Delete, path, handler, about)
    }

    fn add<H: Handler<T, Arc<Node>>, T: 'static>(
        mut self,
        method: HttpMethod,
        path: &str,
        handler: H,
        about: About,
    ) -> Routes {
        let filter = match method {
            HttpMethod::Put => MethodFilter::PUT,
            HttpMethod::Post => MethodFilter::POST,
            HttpMethod::Delete => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        };
        let limit = about.limit;
        let served = on(filter, handler);
        self.router = self.router.route(path, served.layer(limit));
        self.schemas.extend(about.schemas.iter().cloned());
        let shown = path.replace("{*", "{");
        let operation = about.operation(&method, path);
        self.paths.add_path_operation(shown, vec![method], operation);
        self
    }

    pub(super) fn merge(mut self, other: Routes) -> Routes {
        self.router = self.router.merge(other.router);
        self.paths.merge(other.paths);
        self.schemas.extend(other.schemas);
        self
    }

    pub(super) fn router(self) -> Router<Arc<Node>> {
        self.router
    }

    /// The OpenAPI document of these routes.
    pub(super) fn document(self) -> OpenApi {
        let about = "Buckets, their files and the ledger of a wizefs node. Routes outside /v1 are its predecessor's.";
        let info = InfoBuilder::new().title("wizefs").version(env!("CARGO_PKG_VERSION")).description(Some(about));
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = ComponentsBuilder::new().schemas_from_iter(self.schemas).security_scheme(TOKEN, bearer);
        let mut document = OpenApi::new(info.build(), self.paths);
        document.components = Some(components.build());
        // A node asks for a token, or not.
        document.security =
            Some(vec![SecurityRequirement::default(), SecurityRequirement::new::<_, [&str; 0], &str>(TOKEN, [])]);
        document
    }
}

/// What the document says of a route.
pub(super) struct About {
    operation: OperationBuilder,
    reply: ResponseBuilder,
    status: u16,
    /// Other replies that are no failures.
    others: Vec<(u16, ResponseBuilder)>,
    schemas: Schemas,
    limit: DefaultBodyLimit,
}

/// The beginning of what is said of a route: one sentence.
pub(super) fn about(summary: &str) -> About {
    About {
        operation: OperationBuilder::new().summary(Some(summary)),
        reply: ResponseBuilder::new().description("Done"),
        status: 200,
        others: Vec::new(),
        schemas: Vec::new(),
        limit: DefaultBodyLimit::max(super::JSON_LIMIT),
    }
}

impl About {
    /// A successful reply is this JSON.
    pub(super) fn reply<T: ToSchema + 'static>(mut self) -> About {
        let content = Content::new(Some(self.schema::<T>()));
        self.reply = self.reply.content(JSON, content);
        self
    }

    /// A successful reply has this status instead of 200.
    pub(super) fn status(mut self, status: u16) -> About {
        self.status = status;
        self
    }

    /// A successful reply is lines of this JSON; a failure may be the last.
    pub(super) fn lines<T: ToSchema + 'static>(mut self) -> About {
        let content = Content::new(Some(self.schema::<T>()));
        self.reply = self.reply.content("application/x-ndjson", content);
        self
    }

    /// A successful reply is events whose data are this JSON, without end.
    pub(super) fn events<T: ToSchema + 'static>(mut self) -> About {
        let content = Content::new(Some(self.schema::<T>()));
        self.reply = self.reply.content("text/event-stream", content);
        self
    }

    /// A successful reply is bytes or text of this media type.
    pub(super) fn media(mut self, media: &str) -> About {
        let text = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
        self.reply = self.reply.content(media, Content::new(Some(text)));
        self
    }

    /// A successful reply is the content of a file, with the media type of its name: all of it, some of it, or nothing.
    pub(super) fn content(mut self) -> About {
        let reply = |says: &str| ResponseBuilder::new().description(says);
        // The first is for programs that know no ranges of media types.
        let bytes = |reply: ResponseBuilder| reply.content(BYTES, content()).content("*/*", content());
        self.reply = bytes(self.reply);
        let parts = bytes(reply("The parts that were asked for")).content("multipart/byteranges", content());
        self.others = vec![
            (206, parts),
            (304, reply("The client has that content")),
            (416, reply("None of the parts that were asked for is in the file")),
        ];
        self
    }

    /// The body of the request is this JSON, whatever its content type says.
    pub(super) fn body<T: ToSchema + 'static>(mut self) -> About {
        let content = Content::new(Some(self.schema::<T>()));
        let body = RequestBodyBuilder::new().content(JSON, content).required(Some(Required::True));
        self.operation = self.operation.request_body(Some(body.build()));
        self
    }

    /// The body of the request is text.
    pub(super) fn text(mut self) -> About {
        let text = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
        let body = RequestBodyBuilder::new().content("text/plain", Content::new(Some(text)));
        self.operation = self.operation.request_body(Some(body.required(Some(Required::True)).build()));
        self
    }

    /// The body of the request is bytes, of any length.
    pub(super) fn upload(mut self, media: &str) -> About {
        let content = match media {
            "multipart/form-data" => {
                let form = ObjectBuilder::new().property("filename", bytes()).required("filename");
                Content::new(Some(form))
            }
            _ => content(),
        };
        let body = RequestBodyBuilder::new().content(media, content).required(Some(Required::True));
        self.operation = self.operation.request_body(Some(body.build()));
        self.limit = DefaultBodyLimit::disable();
        self
    }

    /// These may stand after the question mark.
    pub(super) fn query<T: IntoParams>(mut self) -> About {
        self.operation = self.operation.parameters(Some(T::into_params(|| Some(ParameterIn::Query))));
        self
    }

    /// The request may have this field in its head.
    pub(super) fn field(mut self, name: &str, says: &str) -> About {
        let text = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
        let field = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(says))
            .schema(Some(text));
        self.operation = self.operation.parameter(field);
        self
    }

    fn schema<T: ToSchema + 'static>(&mut self) -> RefOr<Schema> {
        let name = T::name();
        T::schemas(&mut self.schemas);
        if name == "Value" {
            return T::schema();
        }
        self.schemas.push((name.to_string(), T::schema()));
        RefOr::Ref(utoipa::openapi::Ref::from_schema_name(name))
    }

    fn operation(self, method: &HttpMethod, path: &str) -> Operation {
        let verb = match method {
            HttpMethod::Put => "put",
            HttpMethod::Post => "post",
            HttpMethod::Delete => "delete",
            _ => "get",
        };
        let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let mut id = words.fold(verb.to_owned(), |id, word| format!("{id}_{word}"));
        if path.len() > 1 && path.ends_with('/') {
            id.push('_');
        }
        let mut operation = self.operation.operation_id(Some(id)).tag(tag(path));
        for name in path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
            operation = operation.parameter(path_parameter(name));
        }
        operation = operation.response(self.status.to_string(), self.reply);
        for (status, reply) in self.others {
            operation = operation.response(status.to_string(), reply);
        }
        operation.response("default", failure(path)).build()
    }
}

/// Bytes, whatever they are.
fn bytes() -> ObjectBuilder {
    let binary = SchemaFormat::KnownFormat(KnownFormat::Binary);
    ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).format(Some(binary))
}

fn content() -> Content {
    Content::new(Some(bytes()))
}

fn tag(path: &str) -> &str {
    match path.split('/').nth(1) {
        Some("v1") => "v1",
        Some("buckets" | "state" | "") => "the predecessor's storage routes",
        Some("log") => "tlog-tiles",
        Some("healthz" | "readyz" | "metrics" | "openapi.json") => "operations",
        _ => "the predecessor's chain routes",
    }
}

fn path_parameter(name: &str) -> ParameterBuilder {
    let mut text = ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).min_length(Some(1));
    if name == "bucket" {
        text = text.pattern(Some(BUCKET_NAME)).max_length(Some(255));
    }
    let says = name.strip_prefix('*').map(|_| "may hold slashes, plain or as %2F");
    ParameterBuilder::new()
        .name(name.trim_start_matches('*'))
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(says)
        .schema(Some(text))
}

/// What a failure looks like there.
fn failure(path: &str) -> ResponseBuilder {
    let reply = ResponseBuilder::new().description("A failure; its exit code is the command's");
    match path.split('/').nth(1) {
        Some("v1") => reply.content(JSON, Content::new(Some(RefOr::<Schema>::Ref(reference::<ErrorBody>())))),
        Some("buckets") => reply.content(JSON, Content::new(Some(RefOr::<Schema>::Ref(reference::<Failed>())))),
        _ => reply,
    }
}

fn reference<T: ToSchema>() -> utoipa::openapi::Ref {
    utoipa::openapi::Ref::from_schema_name(T::name())
}

/// The shapes of failures, which no route alone brings in.
pub(super) fn failures() -> Routes {
    let mut schemas = vec![(ErrorBody::name().into(), ErrorBody::schema()), (Failed::name().into(), Failed::schema())];
    ErrorBody::schemas(&mut schemas);
    Failed::schemas(&mut schemas);
    Routes { schemas, ..Routes::default() }
}
