/* A model server on loopback that costs next to nothing, so that what is measured is the client.
 *
 *   POST /d<ms>/v1/chat/completions   the same OpenAI chat completion, <ms> milliseconds after the request
 *   POST /s<ms>x<n>/v1/chat/completions   a stream of <n> tokens, <ms> milliseconds apart, as server-sent events
 *   POST /s<ms>x<n>/api/chat          the same as lines of JSON, as Ollama has it
 *   GET  /stats                       what happened since it was last asked, and what that cost here, as JSON
 *
 * It prints its port and ends when its standard input closes, so that it cannot outlive whoever started it.
 * One thread, epoll, no copies; requests need a Content-Length. Built by server.py: cc -O2 load_server.c; and with
 * -DWITH_TLS … -lssl -lcrypto, where OpenSSL's headers are. That one, given a file with a key and its certificates,
 * listens on a second port, which it prints on a second line: there the same is answered over TLS.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#else
typedef void SSL;
#endif

enum { MOST_FDS = 16384, LARGEST_REQUEST = 65536, MOST_EVENTS = 1024 };

static const char COMPLETION[] =
    "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1732000000,\"model\":\"load\","
    "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The review is positive. Its author "
    "likes how long the battery lasts and how little the device weighs, has nothing to say against the price, and "
    "would buy it again; only the manual, which is short and poorly translated, is mentioned as a weakness.\","
    "\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
    "\"usage\":{\"prompt_tokens\":31,\"completion_tokens\":58,\"total_tokens\":89}}";

typedef struct {
    const char *path, *type, *token, *end;
} Format;

static const Format FORMATS[] = {
    {"/v1/chat/completions", "text/event-stream",
     "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1732000000,\"model\":\"load\","
     "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" battery\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n",
     "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1732000000,\"model\":\"load\","
     "\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"},
    {"/api/chat", "application/x-ndjson",
     "{\"model\":\"load\",\"created_at\":\"2026-11-30T12:00:00.123456Z\","
     "\"message\":{\"role\":\"assistant\",\"content\":\" battery\"},\"done\":false}\n",
     "{\"model\":\"load\",\"created_at\":\"2026-11-30T12:00:00.123456Z\","
     "\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done_reason\":\"stop\",\"done\":true,"
     "\"total_duration\":8000000000,\"prompt_eval_count\":31,\"eval_count\":400}\n"},
};

typedef struct {
    int left, apart, begun;  /* tokens; microseconds; whether the head was sent */
    const Format *format;
} Stream;

typedef struct {
    unsigned born;  /* tells this connection from an earlier one on the same descriptor */
    int waiting;    /* a request is being answered; no other is read meanwhile */
    Stream stream;  /* what is being sent, if its format is not NULL */
    int length;
    SSL *tls;  /* NULL where nothing is encrypted */
    char in[LARGEST_REQUEST + 1];
} Connection;

typedef struct {
    long at;  /* microseconds */
    int fd;
    unsigned born;
} Due;

static Connection *connections[MOST_FDS];
static Due *heap;  /* binary, by `at` */
static int heap_length, heap_room, poller;
static int streams;  /* that are being sent */
static unsigned births;
static long requests, refused, accepted, in_flight, peak;

static long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void push(Due due) {
    if (heap_length == heap_room && !(heap = realloc(heap, (heap_room = heap_room * 2 + 1024) * sizeof due))) abort();
    int at = heap_length++;
    for (; at && heap[(at - 1) / 2].at > due.at; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = due;
}

static Due pop(void) {
    Due first = heap[0], last = heap[--heap_length];
    int at = 0;
    for (int child; (child = 2 * at + 1) < heap_length; at = child) {
        if (child + 1 < heap_length && heap[child + 1].at < heap[child].at) child++;
        if (heap[child].at >= last.at) break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return first;
}

/* CPU microseconds of this process since this was last asked. */
static long cost(void) {
    static long before;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    long all = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000L + used.ru_utime.tv_usec + used.ru_stime.tv_usec;
    long since = all - before;
    before = all;
    return since;
}

/* -- TLS: what is different about it ------------------------------------------------------------------------------ */

#ifdef WITH_TLS
static SSL_CTX *tls_context;

static int tls_begin(const char *pem) {
    tls_context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_mode(tls_context, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_num_tickets(tls_context, 0);  /* nobody comes back for another session */
    return SSL_CTX_use_certificate_chain_file(tls_context, pem) == 1 &&
           SSL_CTX_use_PrivateKey_file(tls_context, pem, SSL_FILETYPE_PEM) == 1;
}

static SSL *tls_accept(int fd) {
    SSL *tls = SSL_new(tls_context);
    if (!tls || !SSL_set_fd(tls, fd)) abort();
    SSL_set_accept_state(tls);
    return tls;
}

/* As recv; the handshake is part of it. What it writes is smaller than any socket's buffer, too. */
static ssize_t tls_receive(SSL *tls, char *into, int room) {
    ERR_clear_error();  /* another connection's, which would be taken for this one's */
    int got = SSL_read(tls, into, room);
    if (got > 0) return got;
    errno = SSL_get_error(tls, got) == SSL_ERROR_WANT_READ ? EAGAIN : EPROTO;
    return -1;
}

static int tls_send(SSL *tls, const char *out, int length) { return SSL_write(tls, out, length); }

static void tls_end(SSL *tls) { SSL_free(tls); }
#else
static int tls_begin(const char *pem) { return (void)pem, 0; }
static SSL *tls_accept(int fd) { return (void)fd, NULL; }
static ssize_t tls_receive(SSL *tls, char *into, int room) { return (void)tls, (void)into, (void)room, -1; }
static int tls_send(SSL *tls, const char *out, int length) { return (void)tls, (void)out, (void)length, -1; }
static void tls_end(SSL *tls) { (void)tls; }
#endif

/* ------------------------------------------------------------------------------------------------------------------ */

static void hang_up(int fd) {
    in_flight -= connections[fd]->waiting;
    streams -= connections[fd]->stream.format != NULL;
    if (connections[fd]->tls) tls_end(connections[fd]->tls);
    free(connections[fd]);
    connections[fd] = NULL;
    close(fd);
}

/* Smaller than any socket's buffer, and nothing else is on its way: it is written whole, or the client is gone. */
static int put(int fd, const char *out, int length) {
    SSL *tls = connections[fd]->tls;
    if ((tls ? tls_send(tls, out, length) : send(fd, out, length, MSG_NOSIGNAL)) == length) return 1;
    hang_up(fd);
    return 0;
}

static int answer(int fd, const char *status, const char *body) {
    char out[2048];
    int length = snprintf(out, sizeof out,
                          "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s", status,
                          strlen(body), body);
    return put(fd, out, length);
}

/* -- streams -- */

/* Whether the request line asks for one; where it does, it begins: each at a moment of its own, so that tokens of many
 * streams come spread over the time between two, as those of real ones do. */
static int begin_stream(int fd, const char *line) {
    Connection *c = connections[fd];
    int apart = 0, tokens = 0, matched = 0;
    if (sscanf(line, "POST /s%dx%d%n", &apart, &tokens, &matched) < 2 || apart < 1 || tokens < 1) return 0;
    for (int i = 0; i < 2; i++) {
        size_t length = strlen(FORMATS[i].path);
        if (strncmp(line + matched, FORMATS[i].path, length) || line[matched + length] != ' ') continue;
        c->stream = (Stream){tokens, apart * 1000, 0, &FORMATS[i]};
        streams++;
        push((Due){now() + apart * 1000L * (c->born * 617 % 1000) / 1000, fd, c->born});
        return 1;
    }
    return 0;
}

/* The next token, in a chunk of its own; returns 0 if the connection is gone. The head goes with the first one. */
static int send_token(int fd, int first) {
    Stream *stream = &connections[fd]->stream;
    const char *text = stream->left ? stream->format->token : stream->format->end;
    char out[2048];
    int length = 0;
    if (first)
        length = snprintf(out, sizeof out, "HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n",
                          stream->format->type);
    length += snprintf(out + length, sizeof out - length, "%zx\r\n%s\r\n%s", strlen(text), text,
                       stream->left ? "" : "0\r\n\r\n");
    return put(fd, out, length);
}

/* What is due of a stream; returns whether it has ended, and the connection is there still. */
static int go_on(Due due) {
    Stream *stream = &connections[due.fd]->stream;
    if (!send_token(due.fd, !stream->begun)) return 0;
    stream->begun = 1;
    if (!stream->left--) return stream->format = NULL, streams--, 1;
    push((Due){due.at + stream->apart, due.fd, due.born});
    return 0;
}

/* As epoll_wait, for so many microseconds: in whole milliseconds, tokens of many streams would come in bunches. */
static int await_until(long at, struct epoll_event *events) {
    long left = at - now();
    struct timespec wait = {left / 1000000, left % 1000000 * 1000};
    return left > 0 ? epoll_pwait2(poller, events, MOST_EVENTS, &wait, NULL) : epoll_wait(poller, events, MOST_EVENTS, 0);
}

static const char *header(const char *from, const char *end, const char *name) {
    size_t length = strlen(name);
    for (const char *line = memchr(from, '\n', end - from); line; line = memchr(line, '\n', end - line))
        if (++line + length < end && !strncasecmp(line, name, length)) return line + length;
    return NULL;
}

/* Takes what has arrived whole; returns 0 if the connection is gone. */
static int serve(int fd) {
    Connection *c = connections[fd];
    while (!c->waiting) {
        char *end = memmem(c->in, c->length, "\r\n\r\n", 4);
        if (!end) break;
        end += 4;
        const char *size = header(c->in, end, "content-length:");
        int whole = (int)(end - c->in) + (size ? atoi(size) : 0), delay = 0, matched = 0;
        if (whole > LARGEST_REQUEST) return hang_up(fd), 0;
        if (c->length < whole) break;
        int stats = !strncmp(c->in, "GET /stats ", 11);
        sscanf(c->in, "POST /d%d/v1/chat/completions %n", &delay, &matched);
        int streamed = begin_stream(fd, c->in);
        memmove(c->in, c->in + whole, c->length -= whole);
        if (stats) {
            char body[256];
            snprintf(body, sizeof body, "{\"requests\":%ld,\"refused\":%ld,\"accepted\":%ld,\"peak\":%ld,\"cpu\":%ld}",
                     requests, refused, accepted, peak, cost());
            requests = refused = accepted = 0;
            peak = in_flight;
            if (!answer(fd, "200 OK", body)) return 0;
        } else if (streamed) {
            requests++;
            c->waiting = 1;
            if (++in_flight > peak) peak = in_flight;
        } else if (!matched) {
            refused++;
            if (!answer(fd, "404 Not Found", "{}")) return 0;
        } else {
            requests++;
            c->waiting = 1;
            if (++in_flight > peak) peak = in_flight;
            push((Due){now() + delay * 1000L, fd, c->born});
        }
    }
    if (c->length == LARGEST_REQUEST && !c->waiting) return hang_up(fd), 0;
    return 1;
}

static void receive(int fd) {
    Connection *c = connections[fd];
    int room = LARGEST_REQUEST - c->length;
    ssize_t got = c->tls ? tls_receive(c->tls, c->in + c->length, room) : recv(fd, c->in + c->length, room, 0);
    if (got > 0) {
        c->length += got;
        serve(fd);  /* whatever OpenSSL has not read is in the socket, where epoll sees it: it does not read ahead */
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        hang_up(fd);
    }
}

static void accept_all(int listener, int with_tls) {
    for (int fd, yes = 1; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        if (fd >= MOST_FDS || !(connections[fd] = calloc(1, sizeof(Connection)))) {
            close(fd);
            continue;
        }
        connections[fd]->born = ++births;
        if (with_tls) connections[fd]->tls = tls_accept(fd);
        accepted++;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        struct epoll_event event = {EPOLLIN, {.fd = fd}};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

static void answer_due(void) {
    for (long t = now(); heap_length && heap[0].at <= t;) {
        Due due = pop();
        Connection *c = connections[due.fd];
        if (!c || c->born != due.born) continue;
        int streamed = c->stream.format != NULL;
        if (streamed && !go_on(due)) continue;
        c->waiting = 0;
        in_flight--;
        if (streamed || answer(due.fd, "200 OK", COMPLETION)) serve(due.fd);
    }
}

/* Listens on a port of its own, and prints it. */
static int listen_somewhere(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof address;
    if (bind(listener, (void *)&address, size) || listen(listener, 4096) ||
        getsockname(listener, (void *)&address, &size))
        return perror("load_server"), -1;
    printf("%d\n", ntohs(address.sin_port));
    struct epoll_event event = {EPOLLIN, {.fd = listener}};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    return listener;
}

int main(int count, char **arguments) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);  /* OpenSSL writes without MSG_NOSIGNAL */

    poller = epoll_create1(0);
    if (count > 1 && !tls_begin(arguments[1])) return fprintf(stderr, "load_server: no TLS\n"), 1;
    int listener = listen_somewhere(), tls_listener = count > 1 ? listen_somewhere() : -1;
    if (listener < 0 || (count > 1 && tls_listener < 0)) return 1;
    fflush(stdout);

    struct epoll_event events[MOST_EVENTS] = {{EPOLLIN, {.fd = STDIN_FILENO}}};
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &events[0]);
    for (;;) {
        long wait = heap_length ? (heap[0].at - now() + 999) / 1000 : -1;
        int found = streams ? await_until(heap[0].at, events)
                            : epoll_wait(poller, events, MOST_EVENTS, heap_length && wait < 0 ? 0 : (int)wait);
        for (int i = 0; i < found; i++) {
            int fd = events[i].data.fd;
            if (fd == STDIN_FILENO) return 0;
            if (fd == listener || fd == tls_listener) accept_all(fd, fd == tls_listener);
            else if (connections[fd]) receive(fd);
        }
        answer_due();
    }
}
