/** Field descriptions that more than one form uses. */

export const NAME = { pointer: "/name", label: "Name", required: true, maxLength: 200 };

export const MESSAGE = [
  {
    pointer: "/content/title",
    label: "Title",
    required: true,
    maxLength: 500,
    placeholder: "Hi {{ user.attributes.first_name | default: 'there' }}",
  },
  { pointer: "/content/body", label: "Text", control: "textarea", maxLength: 4000 },
  { pointer: "/content/url", label: "Click URL", placeholder: "/offers" },
  {
    group: "Images and buttons",
    collapsed: true,
    fields: [
      {
        row: [
          { pointer: "/content/icon", label: "Icon URL", placeholder: "https://…" },
          { pointer: "/content/image", label: "Image URL", placeholder: "https://…" },
        ],
      },
      { pointer: "/content/actions", control: "buttons" },
    ],
  },
  { group: "Translations", collapsed: true, fields: [{ pointer: "/content/locales", control: "translations" }] },
];

export const CATEGORY = {
  pointer: "/category",
  label: "Opt-out category",
  options: ({ categories }) => [{ value: "", text: "None" }, ...categories],
};

const DEFAULT = { value: "", text: "Default" };
const URGENCY = {
  pointer: "/delivery/urgency",
  label: "Urgency",
  options: [DEFAULT, "very-low", "low", "normal", "high"],
};
const LANE = { pointer: "/delivery/lane", label: "Lane", options: [DEFAULT, "bulk", "normal", "urgent"] };
const TIME_TO_LIVE = { pointer: "/delivery/ttl", label: "Time to live", control: "duration", placeholder: "Default" };
const COLLAPSE_KEY = {
  pointer: "/delivery/collapse_key",
  label: "Collapse key",
  placeholder: "score-17",
  maxLength: 255,
};
export const DELIVERY_OPTIONS = [{ row: [TIME_TO_LIVE, URGENCY] }, { row: [LANE, COLLAPSE_KEY] }];

export const QUIET_HOURS = {
  row: [
    { pointer: "/quiet_hours/start", label: "Quiet hours from", control: "time" },
    { pointer: "/quiet_hours/end", label: "Quiet hours until", control: "time" },
  ],
};

export const THROTTLE = {
  row: [
    {
      pointer: "/throttle/per_second",
      label: "Throttle, messages per second",
      control: "number",
      min: 0,
      step: "any",
      placeholder: "Unlimited",
    },
    { pointer: "/throttle/spread", label: "Spread sending over", control: "duration" },
  ],
};

export const FREQUENCY_CAP = {
  row: [
    {
      pointer: "/cap/limit",
      label: "Frequency cap, messages per user",
      control: "number",
      min: 1,
      placeholder: "No cap",
    },
    { pointer: "/cap/window", label: "Cap period", control: "duration", default: 604_800, requires: "/cap/limit" },
  ],
};
