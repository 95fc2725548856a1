export * as api from './client';
export { ApiError, Unreachable } from './http';
export type { Head } from './client';
export type * from './shapes';
