/**
 * Which answers may pass, so that the same request is worth a retry. Every other answer is final. Not part of the library's
 * public interface.
 *
 * The command line has the same table, and the service's guide to HTTP documents it.
 */

/** Statuses of the service, and of proxies and content delivery networks in front of it that cannot reach it. */
export const STATUSES = [408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529, 530, 598, 599];

/** The codes of the service that go with these statuses. A rejected event of an array has only a code. */
export const CODES = [
  "body_timeout",
  "busy",
  "internal",
  "shutting_down",
  "store_unavailable",
  "tail_behind",
  "too_many_answers",
  "too_many_bodies",
  "too_many_appends",
  "too_many_bytes",
  "too_many_caller_answers",
  "too_many_caller_bodies",
  "too_many_caller_streams",
  "too_many_erasures",
  "too_many_requests",
  "too_many_streams",
  "unhealthy",
];
