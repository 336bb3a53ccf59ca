/** The bundler takes style sheets; TypeScript need not look inside. */
declare module "*.css";
