/* The C client beside which rabbitry is measured: librabbitmq, used the plain way, one job per process.
 *
 *     reference publish|consume|one|window|rpc_one|connections HOST PORT COUNT [SIZE [AHEAD]]     (or: reference version)
 *
 * SIZE is the bodies', AHEAD the messages without a confirm of `window`, and the prefetch of `consume`.
 *
 * What must stay true: ours.py does the same work (same queue, body and properties, same beginning and end of the clocks),
 * and every answer of the broker is checked, so that no figure is printed for work that failed. Prints one line of JSON. */
#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_tcp_socket.h>
#endif
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { CHANNEL = 1, BODY_SIZE = 128, PREFETCH = 500, WINDOW = 1000, WARM_UP = 100 }; /* unless told otherwise */

#define USAGE "publish|consume|one|window|rpc_one|connections HOST PORT COUNT [SIZE [AHEAD]]"

static _Thread_local amqp_connection_state_t connection;
static amqp_bytes_t queue, body, reply_to;
static amqp_basic_properties_t properties;
static double started, started_cpu;
static struct rusage started_usage;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "reference: %s: %s\n", what, why);
    exit(1);
}

static void check(const char *what) {
    amqp_rpc_reply_t reply = amqp_get_rpc_reply(connection);
    if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION) fail(what, amqp_error_string2(reply.library_error));
    if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail(what, "refused by the broker");
}

static void check_status(const char *what, int status) {
    if (status != AMQP_STATUS_OK) fail(what, amqp_error_string2(status));
}

static double seconds(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static void start_clocks(void) {
    getrusage(RUSAGE_SELF, &started_usage);
    started = seconds(CLOCK_MONOTONIC);
    started_cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
}

static void print_figures(int count) {
    double wall = seconds(CLOCK_MONOTONIC) - started, cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - started_cpu;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double system = usage.ru_stime.tv_sec - started_usage.ru_stime.tv_sec;
    system += (usage.ru_stime.tv_usec - started_usage.ru_stime.tv_usec) * 1e-6;
    printf("{\"messages\": %d, \"seconds\": %.6f, \"cpu_seconds\": %.6f", count, wall, cpu);
    printf(", \"system_seconds\": %.6f, \"sleeps\": %ld", system, usage.ru_nvcsw - started_usage.ru_nvcsw);
}

/* --- connections ------------------------------------------------------------------------------------------------- */

static void open_channel(const char *host, int port) {
    connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(connection);
    if (!socket) fail("connect", "no memory");
    check_status("connect", amqp_socket_open(socket, host, port));
    amqp_rpc_reply_t reply = amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest");
    if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail("login", "refused");
    amqp_channel_open(connection, CHANNEL);
    check("channel.open");
}

static void renew_queue(void) {
    amqp_queue_delete(connection, CHANNEL, queue, 0, 0);
    check("queue.delete");
    amqp_queue_declare(connection, CHANNEL, queue, 0, 1, 0, 0, amqp_empty_table);
    check("queue.declare");
}

static long resident_bytes(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*d %ld", &pages) != 1) fail("memory", "not told here");
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

/* They stay open until the process ends. */
static void open_connections(const char *host, int port, int count) {
    long before = resident_bytes();
    start_clocks();
    for (int i = 0; i < count; i++) open_channel(host, port);
    double wall = seconds(CLOCK_MONOTONIC) - started, cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - started_cpu;
    printf("{\"connections\": %d, \"connect_seconds\": %.6f, \"connect_cpu_seconds\": %.6f", count, wall, cpu);
    printf(", \"bytes_per_connection\": %.1f}\n", (double)(resident_bytes() - before) / count);
}

static void close_connection(void) {
    amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
    amqp_destroy_connection(connection);
}

/* --- the jobs ---------------------------------------------------------------------------------------------------- */

static void publish(void) {
    check_status("publish", amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, queue, 0, 0, &properties, body));
}

/* Its reply says that the broker has dealt with all that was sent before. */
static void declare_passively(void) {
    amqp_queue_declare(connection, CHANNEL, queue, 1, 1, 0, 0, amqp_empty_table);
    check("passive declare");
}

static void publish_all(int count) {
    for (int i = 0; i < count; i++) publish();
    declare_passively();
}

static void start_consumer(amqp_bytes_t source, int no_ack) {
    amqp_basic_consume(connection, CHANNEL, source, amqp_empty_bytes, 0, no_ack, 0, amqp_empty_table);
    check("consume");
}

static amqp_envelope_t next_delivery(void) {
    amqp_envelope_t envelope;
    amqp_maybe_release_buffers(connection);
    amqp_rpc_reply_t reply = amqp_consume_message(connection, &envelope, NULL, 0);
    if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail("consume", "no delivery");
    return envelope;
}

static void consume_all(int count, int prefetch) {
    amqp_basic_qos(connection, CHANNEL, 0, prefetch, 0);
    check("qos");
    start_clocks();
    start_consumer(queue, 0);
    for (int i = 0; i < count; i++) {
        amqp_envelope_t envelope = next_delivery();
        check_status("ack", amqp_basic_ack(connection, CHANNEL, envelope.delivery_tag, 0));
        amqp_destroy_envelope(&envelope);
    }
    declare_passively();
}

/* The next basic.ack of the broker; anything else ends the run. */
static amqp_basic_ack_t *next_confirm(void) {
    amqp_frame_t frame;
    amqp_maybe_release_buffers(connection);
    check_status("confirm", amqp_simple_wait_frame(connection, &frame));
    if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD) {
        fail("confirm", "another frame than basic.ack");
    }
    return frame.payload.method.decoded;
}

static void publish_one_at_a_time(int count, double *latencies) {
    for (int i = 0; i < count; i++) {
        double before = seconds(CLOCK_MONOTONIC);
        publish();
        next_confirm();
        latencies[i] = seconds(CLOCK_MONOTONIC) - before;
    }
}

static void publish_with_window(int count, int window) {
    int sent = 0, confirmed = 0;
    while (confirmed < count) {
        while (sent < count && sent - confirmed < window) {
            publish();
            sent++;
        }
        /* One queue confirms in order, so what `multiple` covers is known by its tag alone. */
        amqp_basic_ack_t *ack = next_confirm();
        confirmed = ack->multiple ? (int)ack->delivery_tag : confirmed + 1;
    }
}

/* --- RPC --------------------------------------------------------------------------------------------------------- */

/* Two round trips, as every call makes them: the request goes through the server's queue and is acknowledged, the reply
 * comes back by direct reply-to. The server is a thread with a connection of its own: both sides are woken for each
 * call, as where they are two processes. It ends with the last one. */
typedef struct {
    const char *host;
    int port, calls;
} server_t;

static void *serve(void *argument) {
    const server_t *server = argument;
    open_channel(server->host, server->port);
    start_consumer(queue, 0);
    for (int i = 0; i < server->calls; i++) {
        amqp_envelope_t request = next_delivery();
        const amqp_basic_properties_t *asked = &request.message.properties;
        amqp_basic_properties_t answer = properties;
        answer._flags |= AMQP_BASIC_CORRELATION_ID_FLAG;
        answer.correlation_id = asked->correlation_id;
        check_status("reply", amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, asked->reply_to, 0, 0, &answer,
                                                 request.message.body));
        check_status("ack", amqp_basic_ack(connection, CHANNEL, request.delivery_tag, 0));
        amqp_destroy_envelope(&request);
    }
    close_connection();
    return NULL;
}

static void call(int number) {
    char id[16];
    snprintf(id, sizeof id, "%d", number);
    amqp_basic_properties_t request = properties;
    request._flags |= AMQP_BASIC_CORRELATION_ID_FLAG | AMQP_BASIC_REPLY_TO_FLAG;
    request.correlation_id = amqp_cstring_bytes(id);
    request.reply_to = reply_to;
    check_status("call", amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, queue, 1, 0, &request, body));

    amqp_envelope_t reply = next_delivery();
    amqp_bytes_t content = reply.message.body, found = reply.message.properties.correlation_id;
    if (found.len != strlen(id) || memcmp(found.bytes, id, found.len)) fail("call", "another call's reply");
    if (content.len != body.len || memcmp(content.bytes, body.bytes, body.len)) fail("call", "another reply than sent");
    amqp_destroy_envelope(&reply);
}

static void call_one_at_a_time(int count, double *latencies) {
    for (int i = 0; i < count; i++) {
        double before = seconds(CLOCK_MONOTONIC);
        call(i);
        latencies[i] = seconds(CLOCK_MONOTONIC) - before;
    }
}

/* --- the program ------------------------------------------------------------------------------------------------- */

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double *allocate(int count) {
    double *latencies = malloc(sizeof *latencies * count);
    if (!latencies) fail("latencies", "no memory");
    return latencies;
}

static void print_percentiles(int count, double *latencies) {
    qsort(latencies, count, sizeof *latencies, ascending);
    printf(", \"p50_us\": %.2f, \"p99_us\": %.2f", latencies[count / 2] * 1e6, latencies[count * 99L / 100] * 1e6);
    free(latencies);
}

static void select_confirms(void) {
    amqp_confirm_select(connection, CHANNEL);
    check("confirm.select");
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "version")) {
        puts(amqp_version());
        return 0;
    }
    if (argc < 5 || argc > 7) fail("usage", USAGE);
    const char *job = argv[1], *host = argv[2];
    int port = atoi(argv[3]), count = atoi(argv[4]);
    int size = argc > 5 ? atoi(argv[5]) : BODY_SIZE, ahead = argc > 6 ? atoi(argv[6]) : 0;
    if (count < 1 || size < 1 || ahead < 0) fail("usage", "COUNT, SIZE and AHEAD must be positive");
    if (!strcmp(job, "connections")) {
        open_connections(host, port, count);
        return 0;
    }
    queue = amqp_cstring_bytes("rabbitry.bench");
    reply_to = amqp_cstring_bytes("amq.rabbitmq.reply-to");
    body.bytes = malloc(size);
    body.len = size;
    if (!body.bytes) fail("body", "no memory");
    memset(body.bytes, 'x', size);
    properties._flags = AMQP_BASIC_DELIVERY_MODE_FLAG;
    properties.delivery_mode = 1;

    open_channel(host, port);
    renew_queue();
    if (!strcmp(job, "publish")) {
        start_clocks();
        publish_all(count);
        print_figures(count);
    } else if (!strcmp(job, "consume")) {
        publish_all(count);
        consume_all(count, ahead ? ahead : PREFETCH);
        print_figures(count);
    } else if (!strcmp(job, "window")) {
        select_confirms();
        start_clocks();
        publish_with_window(count, ahead ? ahead : WINDOW);
        print_figures(count);
    } else if (!strcmp(job, "one")) {
        select_confirms();
        double *latencies = allocate(count);
        start_clocks();
        publish_one_at_a_time(count, latencies);
        print_figures(count);
        print_percentiles(count, latencies);
    } else if (!strcmp(job, "rpc_one")) {
        server_t server = {host, port, WARM_UP + count};
        pthread_t thread;
        if (pthread_create(&thread, NULL, serve, &server)) fail("rpc_one", "no thread");
        start_consumer(reply_to, 1);
        double *latencies = allocate(count);
        for (int i = 0; i < WARM_UP; i++) call(i);
        start_clocks();
        call_one_at_a_time(count, latencies);
        print_figures(count);
        print_percentiles(count, latencies);
        pthread_join(thread, NULL);
    } else {
        fail("usage", USAGE);
    }
    puts("}");
    amqp_queue_delete(connection, CHANNEL, queue, 0, 0);
    check("queue.delete");
    close_connection();
    return 0;
}
