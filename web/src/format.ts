/** Numbers as people read them. */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (value: number): string => whole.format(value);

export const score = (value: number): string => value.toFixed(2);

export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

export function area(squareMeters: number): string {
  if (squareMeters >= 1e6) return `${three.format(squareMeters / 1e6)} km²`;
  if (squareMeters >= 1e4) return `${three.format(squareMeters / 1e4)} ha`;
  return `${three.format(squareMeters)} m²`;
}

export function length(meters: number): string {
  return meters >= 1000 ? `${three.format(meters / 1000)} km` : `${three.format(meters)} m`;
}

export function position([longitude, latitude]: [number, number]): string {
  const side = (value: number, letters: string): string =>
    `${Math.abs(value).toFixed(5)}° ${letters[value < 0 ? 1 : 0]}`;
  return `${side(latitude, "NS")}, ${side(longitude, "EW")}`;
}

export function moment(iso: string): string {
  return new Intl.DateTimeFormat("en", { dateStyle: "long", timeStyle: "short", timeZone: "UTC" }).format(
    new Date(iso),
  );
}
