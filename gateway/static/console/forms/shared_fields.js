/** What more than one form asks for. */

export const NAME = { at: "/name", label: "Name", required: true, maxLength: 200 };

export const MESSAGE = [
  {
    at: "/content/title",
    label: "Title",
    required: true,
    maxLength: 500,
    placeholder: "Hi {{ user.attributes.first_name | default: 'there' }}",
  },
  { at: "/content/body", label: "Text", as: "textarea", maxLength: 4000 },
  { at: "/content/url", label: "Where a click leads", placeholder: "/offers" },
  {
    group: "Pictures and buttons",
    folded: true,
    fields: [
      {
        row: [
          { at: "/content/icon", label: "Icon", placeholder: "https://…" },
          { at: "/content/image", label: "Image", placeholder: "https://…" },
        ],
      },
      { at: "/content/actions", as: "buttons" },
    ],
  },
  { group: "In other languages", folded: true, fields: [{ at: "/content/locales", as: "locales" }] },
];

export const CATEGORY = {
  at: "/category",
  label: "What people opt out of it by",
  options: ({ categories }) => [{ value: "", text: "nothing" }, ...categories],
};

const URGENCY = {
  at: "/delivery/urgency",
  label: "Urgency",
  options: [{ value: "", text: "as usual" }, "very-low", "low", "normal", "high"],
};
const LANE = {
  at: "/delivery/lane",
  label: "Lane",
  options: [{ value: "", text: "as usual" }, "bulk", "normal", "urgent"],
};
const REPLACES = {
  at: "/delivery/collapse_key",
  label: "Replaces what has the key",
  placeholder: "score-17",
  maxLength: 255,
};
export const TRAVEL = [
  { row: [{ at: "/delivery/ttl", label: "Kept for", as: "seconds", placeholder: "as usual" }, URGENCY] },
  { row: [LANE, REPLACES] },
];

export const QUIET = {
  row: [
    { at: "/quiet_hours/start", label: "Quiet from", as: "time" },
    { at: "/quiet_hours/end", label: "Quiet until", as: "time" },
  ],
};

export const PACE = {
  row: [
    {
      at: "/throttle/per_second",
      label: "At most, a second",
      as: "number",
      min: 0,
      step: "any",
      placeholder: "as fast as it goes",
    },
    { at: "/throttle/spread", label: "Spread over", as: "seconds" },
  ],
};

export const CAP = {
  row: [
    { at: "/cap/most", label: "At most so many times for a user", as: "number", min: 1, placeholder: "any" },
    { at: "/cap/window", label: "Within", as: "seconds", value: 604_800, beside: "/cap/most" },
  ],
};
