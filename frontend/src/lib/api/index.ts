export * as api from './client';
export { ApiError, Unreachable } from './http';
export type * from './shapes';
