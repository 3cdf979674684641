/** City labels for a map without tiles. */

// Name, longitude and latitude of each city, the largest cities first.
const LABELS = `
London -0.13 51.51|New York -74.01 40.71|Tokyo 139.69 35.69|São Paulo -46.63 -23.55|Sydney 151.21 -33.87|
Cairo 31.24 30.04|Mumbai 72.88 19.08|Los Angeles -118.24 34.05|Lagos 3.38 6.52|Moscow 37.62 55.76|Beijing 116.4 39.9|
Jakarta 106.85 -6.21|Johannesburg 28.05 -26.2|Mexico City -99.13 19.43|Paris 2.35 48.86|Madrid -3.7 40.42|
Rome 12.5 41.9|Berlin 13.4 52.52|Vienna 16.37 48.21|Istanbul 28.98 41.01|Stockholm 18.07 59.33|Warsaw 21.01 52.23|
Kyiv 30.52 50.45|Athens 23.73 37.98|Lisbon -9.14 38.72|Dublin -6.26 53.35|Oslo 10.75 59.91|Helsinki 24.94 60.17|
Chicago -87.63 41.88|Houston -95.37 29.76|Toronto -79.38 43.65|Vancouver -123.12 49.28|Miami -80.19 25.76|
Denver -104.99 39.74|Atlanta -84.39 33.75|Seattle -122.33 47.61|Bogotá -74.07 4.71|Lima -77.04 -12.05|
Buenos Aires -58.38 -34.6|Santiago -70.67 -33.45|Nairobi 36.82 -1.29|Casablanca -7.59 33.57|Dubai 55.27 25.2|
Delhi 77.21 28.61|Karachi 67.01 24.86|Bangkok 100.5 13.76|Singapore 103.82 1.35|Manila 120.98 14.6|Seoul 126.98 37.57|
Shanghai 121.47 31.23|Melbourne 144.96 -37.81|Auckland 174.76 -36.85|Perth 115.86 -31.95|Munich 11.58 48.14|
Hamburg 9.99 53.55|Frankfurt 8.68 50.11|Zürich 8.54 47.38|Milan 9.19 45.46|Prague 14.44 50.08|Budapest 19.04 47.5|
Graz 15.44 47.07|Salzburg 13.04 47.8|Innsbruck 11.39 47.27|Linz 14.29 48.31|Bratislava 17.11 48.15|Brno 16.61 49.2|
Amsterdam 4.9 52.37|Brussels 4.35 50.85|Copenhagen 12.57 55.68|Lyon 4.84 45.76|Barcelona 2.17 41.39|
Manchester -2.24 53.48|Edinburgh -3.19 55.95|Bucharest 26.1 44.43|Sofia 23.32 42.7|Belgrade 20.46 44.79|
Zagreb 15.98 45.81|Naples 14.27 40.85|Dallas -96.8 32.78|Phoenix -112.07 33.45|San Francisco -122.42 37.77|
Boston -71.06 42.36|Washington -77.04 38.91|Montreal -73.57 45.5|Minneapolis -93.27 44.98|New Orleans -90.07 29.95|
Kansas City -94.58 39.1`;

export const CITIES = LABELS.replaceAll("\n", "")
  .split("|")
  .map((label) => /^(.*) (\S+) (\S+)$/.exec(label))
  .map(([, name, lon, lat]) => [name, Number(lon), Number(lat)]);
