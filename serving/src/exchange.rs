//! Requests and answers, as far as the life of their connection learns of them: around whatever service answers.

use crate::life::{Connection, Life};
use actix_http::{
    BoxedPayloadStream, ConnectionType, Payload, Request, Response,
    body::{BodySize, MessageBody},
    error::PayloadError,
};
use actix_service::{Service, ServiceFactory, map_config};
use actix_web::{App, Error, body::BoxBody, dev, web::Bytes};
use futures_util::Stream;
use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

/// An application of actix-web as a service that can be served.
pub fn of_app<T>(
    app: App<T>,
) -> impl ServiceFactory<
    Request,
    Config = (),
    Response = dev::ServiceResponse<BoxBody>,
    Error = Error,
    InitError = (),
    Service = impl Service<Request, Response = dev::ServiceResponse<BoxBody>, Error = Error, Future: 'static>,
>
where
    T: ServiceFactory<
            dev::ServiceRequest,
            Config = (),
            Response = dev::ServiceResponse<BoxBody>,
            Error = Error,
            InitError = (),
        > + 'static,
{
    // Where it listens is of use for making URLs only, and none is made.
    map_config(app, |()| dev::AppConfig::default())
}

/// Has a request answered. Its connection knows when it begins, when its body has been read, and when its answer is complete.
pub(crate) fn watch<S, B>(
    mut request: Request,
    service: &S,
) -> impl Future<Output = Result<Response<Told<B>>, S::Error>> + use<S, B>
where
    S: Service<Request, Response: Into<Response<B>>>,
    B: MessageBody + Unpin,
{
    let life = request.conn_data::<Connection>().map(|Connection(life)| Rc::clone(life));
    if let Some(life) = &life {
        begin(life, &mut request);
    }
    answer(life, service.call(request))
}

async fn answer<B, R: Into<Response<B>>, E>(
    life: Option<Rc<Life>>,
    call: impl Future<Output = Result<R, E>>,
) -> Result<Response<Told<B>>, E>
where
    B: MessageBody + Unpin,
{
    let answered = call.await;
    let is_last = match (&life, &answered) {
        (Some(life), Ok(_)) => Some(life),
        // What is made of an error is short.
        (Some(life), Err(_)) => {
            life.answered(0);
            life.encoded();
            None
        }
        (None, _) => None,
    };
    let mut response: Response<B> = match answered {
        Ok(response) => response.into(),
        Err(error) => return Err(error),
    };
    if let Some(life) = is_last {
        let bytes = match response.body().size() {
            BodySize::Sized(bytes) => bytes,
            BodySize::None | BodySize::Stream => 0,
        };
        if life.answered(bytes) {
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
    }
    Ok(response.map_body(|_, body| Told { body, life }))
}

fn begin(life: &Rc<Life>, request: &mut Request) {
    match request.take_payload() {
        Payload::None => life.request_began(false),
        body => {
            life.request_began(true);
            let body: BoxedPayloadStream = Box::pin(Body { body, life: Rc::clone(life) });
            *request.payload() = Payload::Stream { payload: body };
        }
    }
}

/// The body of a request.
struct Body {
    body: Payload,
    life: Rc<Life>,
}

impl Stream for Body {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.body).poll_next(context);
        if matches!(polled, Poll::Ready(None)) {
            self.life.body_ended();
        }
        polled
    }
}

/// The body of an answer. It is dropped once all of it has been handed over.
pub(crate) struct Told<B> {
    body: B,
    life: Option<Rc<Life>>,
}

impl<B: MessageBody + Unpin> MessageBody for Told<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

impl<B> Drop for Told<B> {
    fn drop(&mut self) {
        if let Some(life) = &self.life {
            life.encoded();
        }
    }
}
